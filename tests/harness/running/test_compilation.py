"""Compiled networks compute the same as plain ones, and are used only where that saves time."""

import json
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from harness.running.compilation import clone_gradients, compile_forward
from harness.running.execute import execute
from harness.running.optimizers import make_optimizer
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from methods import METHODS, MakeNet, Recipe
from methods.core.fused_members import BATCH_NORMS, MemberBatchedNorm, member_forward
from tests.conftest import TinyNet, separable

pytestmark = pytest.mark.long


def compiled_tiny_net(**options):
    net = TinyNet(**options)
    compile_forward(net, "default")
    return net


@pytest.fixture
def programs(monkeypatch):
    """The sizes of minibatches that compiled programs see, in place of compiling."""
    seen = []

    def fake(function, **options):
        assert options["dynamic"] is False

        def run(net, x):
            seen.append(len(x))
            return function(net, x)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    return seen


LATE = {"K": 2, "start": 0, "sigma0": 0.3}


@pytest.mark.long
@pytest.mark.parametrize("fuse_up_to", [0, 16], ids=["", "fused"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sgd", {}),
        ("dropout", {"p": 0.5}),
        ("late_phase_bn", LATE),
        ("late_phase_rank1", LATE),
        ("batch_ensemble", {"K": 2}),
        ("line", {}),
    ],
)
def test_a_compiled_step_equals_the_plain_step(name, given, fuse_up_to):
    if fuse_up_to and not name.startswith("late"):
        pytest.skip("nothing to fuse")
    recipe = Recipe(epochs=2, lr=0.05)
    methods = [
        partial(METHODS[name], **given)(MakeNet(net, seed=0), recipe).double() for net in (TinyNet, compiled_tiny_net)
    ]
    x, y = separable(32)
    batches = [(x[:16].double(), y[:16]), (x[16:].double(), y[16:])]
    losses = []
    methods[1].fuse_up_to = fuse_up_to
    for method in methods:
        optimizer = make_optimizer(method, recipe)
        method.begin_epoch(0)
        method.train()
        size = method.batches_per_update()
        torch.manual_seed(0)
        losses.append([method.update(batches[i : i + size], optimizer) for i in range(0, 2, size)])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-9)
    for (key, p), (_, q) in zip(methods[0].state_dict().items(), methods[1].state_dict().items(), strict=True):
        if isinstance(p, torch.Tensor):
            torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-9, msg=lambda m, n=key: f"{n}: {m}")


def test_one_size_of_minibatch_is_compiled_in_training(programs):
    net = compiled_tiny_net()
    x, _ = separable(16)
    net.eval()(x)
    net.train()
    with torch.no_grad():
        net(x)
    assert programs == []
    net(x)
    net(x[:9])
    net(x)
    assert programs == [16, 16]


def test_a_copied_network_has_its_own_weights_in_the_same_program(programs):
    net = compiled_tiny_net()
    other = deepcopy(net)
    with torch.no_grad():
        other.head.bias.add_(1)
    x, _ = separable(16)
    difference = other(x) - net(x)
    torch.testing.assert_close(difference, torch.ones_like(difference))
    assert programs == [16, 16]
    assert other.state_dict().keys() == TinyNet().state_dict().keys()


def test_a_compiled_run_equals_the_run_and_records_the_mode(make_run, tmp_path, programs):
    run = make_run("swa(late_phase_bn(K=2, start=1), start=2)")
    states = []
    for mode in ("off", "default"):
        settings = Settings(Path(tmp_path, mode), compile=mode, fuse="never")
        assert execute(run, settings, []).state == "finished"
        folder = RunFolder(settings.runs, run.key)
        assert json.loads(folder.result.read_text())["provenance"]["compile"] == mode
        assert bool(programs) == (mode == "default")
        states.append(torch.load(folder.checkpoint)["method"])
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][key]), key


def test_a_cycle_of_fused_members_is_one_program_in_every_epoch(programs):
    """Members with BatchNorm of their own; epochs begin with other members."""
    make = partial(METHODS["late_phase_bn"], K=2, start=0)
    method = make(MakeNet(compiled_tiny_net, seed=0), Recipe(epochs=3))
    method.fuse_up_to = 16
    optimizer = make_optimizer(method, method.recipe)
    x, y = separable(32)
    for epoch in range(3):
        method.begin_epoch(epoch)
        method.train()
        method.update([(x[:16], y[:16]), (x[16:], y[16:])], optimizer)
        method.update([(x[:9], y[:9]), (x[9:18], y[9:18])], optimizer)
    assert programs == [32] * 3


@pytest.mark.parametrize("leftover", ["step", "carry", "drop"])
@pytest.mark.parametrize("name", ["late_phase_rank1", "late_phase_last_layer", "gradient_accumulation"])
def test_cycles_of_members_with_shared_statistics_are_compiled_if_epochs_begin_alike(programs, name, leftover):
    make = partial(METHODS[name], K=2, start=0, leftover=leftover)
    method = make(MakeNet(compiled_tiny_net, seed=0), Recipe(epochs=3))
    method.fuse_up_to = 16
    x, y = separable(32)
    for epoch in range(3):
        method.begin_epoch(epoch)
        method.train()
        method.update([(x[:16], y[:16]), (x[16:], y[16:])], make_optimizer(method, method.recipe))
    assert programs == ([] if leftover == "step" else [32] * 3)


def test_a_whole_cycle_is_compiled_also_if_a_run_resumes_within_a_cycle(programs):
    make = partial(METHODS["late_phase_bn"], K=4, start=0, leftover="carry")
    method = make(MakeNet(compiled_tiny_net, seed=0), Recipe(epochs=3))
    method.fuse_up_to = 16
    method.cycle_position = 2
    method.begin_epoch(0)
    method.train()
    optimizer = make_optimizer(method, method.recipe)
    x, y = separable(64)
    minibatches = list(zip(x.split(16), y.split(16), strict=True))
    for _ in range(2):
        method.update(minibatches[: method.batches_per_update()], optimizer)
    assert programs == [64]


@pytest.mark.long
@pytest.mark.parametrize("kernels", ["a kernel a group", "few kernels"])
def test_fused_members_are_compiled_once(kernels, monkeypatch):
    """By torch itself: no graph break, and one graph whatever epochs begin with."""
    if kernels == "few kernels":
        monkeypatch.setattr(
            "methods.core.late_phase.member_forward",
            lambda layers: MemberBatchedNorm(layers) if isinstance(layers[0], BATCH_NORMS) else member_forward(layers),
        )
    torch.compiler.reset()
    counters.clear()
    make = partial(METHODS["late_phase_bn"], **LATE)
    one, other = (make(MakeNet(net, seed=0), Recipe(epochs=3)).double() for net in (TinyNet, compiled_tiny_net))
    x, y = separable(32)
    batches = [(x[:16].double(), y[:16]), (x[16:].double(), y[16:])]
    for method, limit in ((one, 0), (other, 16)):
        method.fuse_up_to = limit
        optimizer = make_optimizer(method, method.recipe)
        for epoch in range(3):
            method.begin_epoch(epoch)
            method.train()
            method.update(batches, optimizer)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for (key, p), (_, q) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        if isinstance(p, torch.Tensor):
            torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-9, msg=lambda m, n=key: f"{n}: {m}")


def test_any_number_of_runs_in_a_process_is_compiled(make_run, tmp_path, monkeypatch):
    """torch keeps eight programs of a function, here one: each run begins without those of the ones before.

    That is so before any backend comes into play; the quickest one is used.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    settings = Settings(tmp_path, compile="default", fuse="always")
    with torch._dynamo.config.patch(recompile_limit=1):
        for seed in range(2):
            counters.clear()
            run = make_run("late_phase_bn(K=2, start=0)", seed=seed)
            assert execute(run, settings, []).state == "finished"
            assert counters["stats"]["unique_graphs"] >= 1, seed


def test_gradients_are_copied_out_of_the_memory_of_graphs():
    method = METHODS["sgd"](MakeNet(TinyNet, seed=0), Recipe(epochs=1))
    clone_gradients(method)
    given = torch.ones(3)
    method.net.head.bias.backward(given)
    assert torch.equal(method.net.head.bias.grad, given)
    assert method.net.head.bias.grad.data_ptr() != given.data_ptr()


def test_a_process_that_compiles_nothing_does_not_import_the_compiler():
    """800 modules, and a second or two. The first optimizer imports a twentieth of them."""
    code = "import sys, harness.running.lifecycle; "
    code += "print(*(name for name in sys.modules if name.startswith(('torch._inductor', 'torch._dynamo'))))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
