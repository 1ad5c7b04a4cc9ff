"""Costs: the exact numbers for each kind of method."""

import copy
import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from harness.costs.cost import Cost, CostCounter
from harness.costs.parameters import parameters_kept, parameters_of_members, parameters_trained
from harness.costs.peak_memory import PeakMemory
from harness.engines import Inline
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from methods import SGD, SWA, DeepEnsemble, Dropout, LatePhaseBatchNorm, Line, MCDropout, Method, Recipe, Snapshot
from tests.conftest import TinyNet, build, separable
from tests.methods.training import trained

N, EPOCHS, SIZE = 60, 3, 16
STEPS = math.ceil(N / SIZE)
PARAMETERS = sum(p.numel() for p in TinyNet().parameters())
NORM, HEAD = 2 * 4, 4 * 9 * 3 + 3


# method: forward examples, backward examples, steps, forwards a prediction
EXPECTED = {
    "sgd": (EPOCHS * N, EPOCHS * N, EPOCHS * STEPS, 1),
    "dropout": (EPOCHS * N, EPOCHS * N, EPOCHS * STEPS, 1),
    "mc_dropout(K=7)": (EPOCHS * N, EPOCHS * N, EPOCHS * STEPS, 7),
    # A cycle of K minibatches is one step; each minibatch passes through one member.
    "late_phase_bn(K=2, start=1)": (EPOCHS * N, EPOCHS * N, STEPS + 2 * math.ceil(STEPS / 2), 1),
    "late_phase_bn(K=3, start=1, prediction=members)": (EPOCHS * N, EPOCHS * N, STEPS + 2 * math.ceil(STEPS / 3), 3),
    "late_phase_bn(K=2, start=1, statistics=reestimate_members)": (
        EPOCHS * N + 2 * N,
        EPOCHS * N,
        STEPS + 2 * math.ceil(STEPS / 2),
        1,
    ),
    "swa(start=1)": (EPOCHS * N + N, EPOCHS * N, EPOCHS * STEPS, 1),
    "snapshot(M=3)": (EPOCHS * N, EPOCHS * N, EPOCHS * STEPS, 3),
    "line(prediction=pair)": (EPOCHS * N + 2 * N, EPOCHS * N, EPOCHS * STEPS, 2),
}


@pytest.mark.parametrize("method", EXPECTED)
def test_exact_costs(method, make_run, tmp_path):
    run = make_run(method)
    assert execute(run, Settings(tmp_path), []).state == "finished"
    result = json.loads(RunFolder(tmp_path, run.key).result.read_text())
    forward, backward, steps, passes = EXPECTED[method]
    expected = {"forward_examples": forward, "backward_examples": backward, "optimizer_steps": steps}
    assert {name: result["cost"][name] for name in expected} == expected
    assert result["spent"] == expected
    assert result["cost"]["forwards_per_example"] == passes
    assert result["timing"]["cost/train_seconds"] == result["timing"]["spent/train_seconds"] > 0
    assert "cost/peak_memory_bytes" not in result["timing"], "measured on CUDA devices only"


def test_a_deep_ensemble_costs_its_parts_and_spends_nothing(write_study, run_study, tmp_path):
    study = write_study(tmp_path / "s.yaml", methods=["deep_ensemble(swa(start=1), K=2)"])
    done = run_study(study, tmp_path / "runs", Inline(1))
    assert not done.schedule.failed
    results = {
        str(p.run.method): json.loads(RunFolder(tmp_path / "runs", key).result.read_text())
        for key, p in done.plan.runs.items()
    }
    whole, part = results["deep_ensemble(swa(start=1), K=2)"], results["swa(start=1)"]
    assert len(done.plan.runs) == 3
    for name in ("forward_examples", "backward_examples", "optimizer_steps", "parameters_trained", "parameters_kept"):
        assert whole["cost"][name] == 2 * part["cost"][name] > 0, name
    assert whole["cost"]["forwards_per_example"] == 2
    assert whole["spent"] == {"forward_examples": 0, "backward_examples": 0, "optimizer_steps": 0}
    parts = [
        json.loads(RunFolder(tmp_path / "runs", key).result.read_text())["timing"]["cost/train_seconds"]
        for key, p in done.plan.runs.items()
        if p.role == "component"
    ]
    seconds = whole["timing"]["cost/train_seconds"] - whole["timing"]["spent/train_seconds"]
    assert seconds == pytest.approx(sum(parts))


class Fast(Method):
    """K members that share all weights but two vectors each: their heads are W ∘ (s_k r_kᵀ)."""

    K = 5

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.r = nn.Parameter(torch.ones(self.K, 36))
        self.s = nn.Parameter(torch.ones(self.K, 3))

    def members(self):
        for r, s in zip(self.r, self.s, strict=True):
            yield {**self.own_weights(), "head.weight": self.net.head.weight * s.outer(r)}


class Generating(Method):
    """K members that a large network generates from a code each."""

    K = 3

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.codes = nn.Parameter(torch.ones(self.K, 1000))
        self.hyper = nn.Linear(1000, PARAMETERS)

    def members(self):
        shapes = {name: p.shape for name, p in self.net.named_parameters()}
        for code in self.codes:
            parts = self.hyper(code).split([shape.numel() for shape in shapes.values()])
            made = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
            yield {**self.own_weights(), **made}


class Sliced(Method):
    """K heads kept in one tensor; each member takes its part, and the last two the same."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.heads = nn.Parameter(torch.ones(4, 3, 36))

    def members(self):
        for k in (0, 1, 1):
            yield {**self.own_weights(), "head.weight": self.heads[k]}


LATE = {"K": 3, "start": 1}
OWN = NORM + HEAD
# method, its hyperparameters, parameters trained, parameters kept
SIZES = {
    "sgd": (SGD, {}, PARAMETERS, PARAMETERS),
    "dropout": (Dropout, {}, PARAMETERS, PARAMETERS),
    "mc_dropout": (MCDropout, {"K": 9}, PARAMETERS, PARAMETERS),
    "late-phase average": (LatePhaseBatchNorm, LATE, PARAMETERS + 3 * OWN, PARAMETERS),
    "late-phase members": (
        LatePhaseBatchNorm,
        LATE | {"prediction": "members"},
        PARAMETERS + 3 * OWN,
        PARAMETERS - OWN + 3 * OWN,
    ),
    "swa": (SWA, {"start": 1}, PARAMETERS, PARAMETERS),
    "swa of late-phase members": (
        SWA,
        {"start": 1, "of": partial(LatePhaseBatchNorm, prediction="members", **LATE)},
        PARAMETERS + 3 * OWN,
        PARAMETERS - OWN + 3 * OWN,
    ),
    "snapshot": (Snapshot, {"M": 2}, PARAMETERS, 2 * PARAMETERS),
    "midpoint": (Line, {}, 2 * PARAMETERS, PARAMETERS),
    "pair": (Line, {"prediction": "pair"}, 2 * PARAMETERS, 2 * PARAMETERS),
    "fast weights": (Fast, {}, PARAMETERS + 5 * (36 + 3), PARAMETERS + 5 * (36 + 3)),
    "generated": (Generating, {}, PARAMETERS + 3 * 1000 + 1001 * PARAMETERS, 3 * PARAMETERS),
    "sliced": (Sliced, {}, PARAMETERS + 4 * 108, PARAMETERS - 108 + 2 * 108),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameters_trained_and_kept(name, batches):
    make, hyperparameters, size, kept = SIZES[name]
    method = trained(partial(make, **hyperparameters), Recipe(epochs=3), batches)
    assert (parameters_trained(method), parameters_kept(method, separable(2)[0])) == (size, kept)


def test_members_made_one_by_one_may_take_each_others_memory():
    """Each member of fast weights has a head of its own, wherever the one before it lay."""
    method = build(Fast, Recipe(epochs=1))
    assert parameters_of_members(method) == PARAMETERS - 108 + 5 * 108


def test_a_deep_ensemble_keeps_all_of_its_members():
    ensemble = build(DeepEnsemble, Recipe(epochs=4), K=4).eval()
    assert (parameters_trained(ensemble), parameters_kept(ensemble, separable(2)[0])) == (0, 4 * PARAMETERS)
    lines = build(DeepEnsemble, Recipe(epochs=4), of=Line, K=2).eval()
    assert parameters_kept(lines, separable(2)[0]) == 2 * PARAMETERS


def test_the_counter_counts_only_in_training():
    counter = CostCounter()
    net = nn.Linear(2, 1)
    net.register_forward_pre_hook(counter)
    copied = copy.deepcopy(net)
    net(torch.zeros(5, 2))
    assert counter.cost == Cost()
    with counter.training(torch.device("cpu")):
        net(torch.zeros(5, 2))
        copied(torch.zeros(2, 2))
        with torch.no_grad():
            net(torch.zeros(100, 2))
    net(torch.zeros(5, 2))
    assert counter.cost.train_seconds > 0
    counter.cost.train_seconds = 0.0
    assert counter.cost == Cost(forward_examples=107, backward_examples=7)


def test_seconds_are_counted_up_to_an_error():
    counter = CostCounter()
    with pytest.raises(RuntimeError), counter.training(torch.device("cpu")):
        raise RuntimeError
    assert counter.cost.train_seconds > 0
    assert not counter.counting


def test_sum_of_costs():
    assert Cost(1, 2, 3, 0.5) + Cost(10, 20, 30, 0.25) == Cost(11, 22, 33, 0.75)


def test_runs_one_after_the_other_need_the_larger_memory():
    one, other = Cost(peak_memory_bytes=7), Cost(peak_memory_bytes=5)
    assert (one + other).peak_memory_bytes == (other + one).peak_memory_bytes == 7


@pytest.mark.gpu
def test_peak_memory_of_a_device_is_what_a_run_adds():
    device = torch.device("cuda")
    before = torch.ones(2**20, device=device)
    memory = PeakMemory(device)
    held = torch.ones(2**22, device=device)
    del held
    assert 2**24 <= memory.bytes() < 2**24 + 2**21
    del before
