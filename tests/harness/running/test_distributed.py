"""Ranks: two processes that train one run have the result of a single process."""

import multiprocessing
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data import DatasetShape
from harness.cli.options import Refusal
from harness.cli.options.engine import check_ranks
from harness.parsing.plugins import available_methods
from harness.running.distributed import ranks
from harness.running.distributed.group import Group
from harness.running.distributed.ranks import RankError, make_picklable, rank_device, wait_for_ranks
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store import checkpoint as checkpoints
from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder
from harness.studies.run import DatasetSpec
from harness.studies.study import with_digest
from methods import METHODS, SGD, Line, Recipe
from models.shake_drop import ShakeDrop
from tests.conftest import SETTINGS
from tests.harness import two_ranks as jobs
from tests.harness.two_ranks import TwoRanks

pytestmark = pytest.mark.long

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def pair():
    made = TwoRanks()
    yield made
    made.close()


# --- what is put together -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(3), (7, 3, 4, 5)),
        (nn.BatchNorm2d(3, momentum=None), (2, 3, 1, 2)),
        (nn.BatchNorm2d(3, affine=False, track_running_stats=False), (4, 3, 2, 2)),
        (nn.BatchNorm1d(5, momentum=1.0, eps=1e-3), (3, 5)),
        (nn.BatchNorm1d(5), (5, 5, 3)),
    ],
    ids=str,
)
def test_batch_norm_sees_the_whole_minibatch(pair, layer, shape):
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    layer = layer.double()
    for p in layer.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    batches = [
        tuple((3 * torch.randn(shape, generator=generator).double() + 7).contiguous(memory_format=layout) for _ in "xd")
        for _ in range(3)
    ]
    expected = jobs.run_layer(Group(), layer, batches)
    first, second = pair(jobs.run_layer, layer, batches)
    for (y, by_x, by_weights, buffers), one, two in zip(expected, first, second, strict=True):
        torch.testing.assert_close(torch.cat([one[0], two[0]]), y, **EXACT)
        torch.testing.assert_close(torch.cat([one[1], two[1]]), by_x, **EXACT)
        assert one[0].is_contiguous(memory_format=layout)
        for found in (one, two):
            torch.testing.assert_close(found[2], by_weights, **EXACT)
            torch.testing.assert_close(found[3], buffers, **EXACT)
        assert all(torch.equal(a, b) for a, b in zip(one[3], two[3], strict=True))


def test_batch_norm_of_half_precision(pair):
    layer, x = nn.BatchNorm2d(4), torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)) + 300
    exact = jobs.run_layer(Group(), layer, [(x.bfloat16().float(), x)])[0]
    (one,), (two,) = pair(jobs.run_layer, layer, [(x.bfloat16(), x.bfloat16())])
    assert one[0].dtype == one[1].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([one[0], two[0]]).float(), exact[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(one[3], exact[3])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layer", [nn.Dropout(0.4), ShakeDrop(0.5)], ids=str)
def test_random_numbers_per_example_are_those_of_one_process(pair, layer, layout):
    x = torch.ones(9, 4, 3, 3).contiguous(memory_format=layout)
    for joined in (True, False):
        y, gradient, after = jobs.run_random_layer(Group(), layer, x, joined)
        one, two = pair(jobs.run_random_layer, layer, x, joined)
        if joined:
            assert torch.equal(torch.cat([one[0], two[0]]), y)
            assert torch.equal(torch.cat([one[1], two[1]]), gradient)
            assert one[2] == two[2] == after, "generators keep in step"
        else:
            assert torch.equal(one[0], two[0][:4]), "a prediction draws as in one process"


@pytest.mark.parametrize("bucket", [1, 30, 2**24])
def test_averages(pair, bucket):
    for found in pair(jobs.average_tensors, bucket):
        assert torch.equal(found[0], torch.full((3, 2), 0.5, dtype=torch.float64))
        assert torch.equal(found[1], torch.arange(24.0).view(2, 3, 2, 2) * 1.5)
        assert found[1].is_contiguous(memory_format=torch.channels_last)
        assert found[2] == 5.0
        assert torch.equal(found[3], torch.ones(5))


def test_rank_0_goes_first(pair, tmp_path):
    assert pair(jobs.list_in_turn, tmp_path) == [[], ["rank 0"]]


# --- every method ---------------------------------------------------------------------------------------------

RECIPE = Recipe(epochs=4, batch_size=9, lr=0.02, weight_decay=1e-3, label_smoothing=0.1)
CASES = [
    *(
        pytest.param(name, "tiny", SETTINGS.get(name, {}), marks=pytest.mark.long)
        for name in METHODS
        if name != "deep_ensemble"
    ),
    ("sgd", "wrn-10-1", {}),
    ("late_phase_bn", "wrn-10-1", {"K": 3, "start": 0.3, "statistics": "reestimate_members", "sigma0": 0.1}),
    ("late_phase_rank1", "tiny", {"K": 4, "start": 0.3, "leftover": "carry", "gamma_theta": "1/K"}),
    ("hypernet_ensemble", "wrn-10-1", {"K": 2, "start": 0.3, "nested": False}),
    ("swa", "tiny", {"start": 0.5, "every": "step"}),
    ("swag", "tiny", {"start": 0.3, "rank": 2, "N": 2, "of": METHODS["batch_ensemble"]}),
    ("early_stopping", "tiny", {"of": METHODS["mc_dropout"]}),
    ("line", "tiny", {"decay": "point", "layerwise": True, "prediction": "pair", "alpha": 0.2}),
]


@pytest.mark.parametrize(("name", "net", "hyperparameters"), CASES, ids=str)
def test_two_ranks_train_as_one_process(pair, name, net, hyperparameters):
    arguments = (METHODS[name], RECIPE, net, hyperparameters)
    state, losses, cost = jobs.train(Group(), *arguments)
    (first, *same), (second, *also) = pair(jobs.train, *arguments)
    assert same == also, "losses and cost are those of all ranks"
    assert same[0] == pytest.approx(losses, rel=1e-9)
    assert same[1] == cost
    assert list(first) == list(state)
    for key, value in state.items():
        torch.testing.assert_close(first[key], value, **EXACT, msg=lambda text, key=key: f"{key}: {text}")
        assert torch.equal(first[key], second[key]), key


def test_adam(pair):
    arguments = (
        METHODS["late_phase_bn"],
        RECIPE.model_copy(update={"optimizer": "adam"}),
        "tiny",
        {"K": 2, "start": 1},
    )
    state, losses, _ = jobs.train(Group(), *arguments)
    first, _ = pair(jobs.train, *arguments)
    assert first[1] == pytest.approx(losses, rel=1e-7)
    for key, value in state.items():
        torch.testing.assert_close(first[0][key], value, rtol=1e-6, atol=1e-7)


def test_all_ranks_notice_that_one_diverges(pair):
    one, two = pair(jobs.train_on_nan, RECIPE)
    assert one == two == "the training loss became nan in epoch 1 at learning rate 0.02"


def test_a_method_that_cannot_be_divided_is_refused(pair):
    for said in pair(jobs.share_gradients, METHODS["line"], RECIPE, {"samples": 2}):
        assert said.startswith("Line, as it is set here, may use examples of a minibatch together, which 2 ranks would")
    inner = {"of": METHODS["line"]}
    assert pair(jobs.share_gradients, METHODS["swa"], RECIPE, inner) == ["shared", "shared"]


class Noisy(SGD):
    """Draws a number for each example, which ranks would draw otherwise; it says nothing of that."""

    def loss(self, x, y, weights=None):
        return super().loss(x + torch.randn_like(x), y, weights)


class NoisyTogether(Noisy):
    """Says of itself what its base class does not."""

    divisible = True


class Together(Line):
    """Compares examples, whatever its hyperparameters are."""

    divisible = False


@pytest.mark.parametrize("of", [None, METHODS["swa"]])
@pytest.mark.parametrize(("method", "shared"), [(Noisy, False), (Together, False), (NoisyTogether, True)])
def test_a_class_divides_minibatches_only_if_it_says_so_itself(pair, of, method, shared):
    outer, inner = (of, {"of": method}) if of else (method, {})
    for said in pair(jobs.share_gradients, outer, RECIPE, inner):
        assert said == "shared" if shared else f"say so in the class {method.__name__} by `divisible = True`" in said


def test_names_of_the_state_stay_the_same(pair, make_run):
    for name in ("sgd", "late_phase_bn(K=2, start=1)", "swag(mc_dropout, start=1)"):
        arguments = (make_run(name), METHODS, DatasetShape(1, 8, 3, 60))
        assert pair(jobs.state_names, *arguments)[0] == jobs.state_names(Group(), *arguments)


# --- whole runs -----------------------------------------------------------------------------------------------

EXACTLY = """
import os, signal
from methods import METHODS, SGD, last_layer
import torch.distributed as dist
from torch import nn

def exactly(method):
    class Exactly(method):
        'Computes in float64, so that the same sums in another order stay the same numbers for a while.'
        divisible = True
        def __init__(self, make_net, recipe, **hyperparameters):
            super().__init__(make_net, recipe, **hyperparameters)
            self.double()
        def forward(self, x, weights=None):
            return super().forward(x.double(), weights)
    return Exactly

class Killed(exactly(SGD)):
    'Of two ranks, the second one dies in epoch 2.'
    divisible = True
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 2 and dist.is_initialized() and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

class Norm(SGD):
    'Puts layers that use the whole minibatch into the network.'
    divisible = True
    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        name = last_layer(self.net)
        old = self.net.get_submodule(name)
        self.net.set_submodule(name, nn.Sequential(nn.BatchNorm1d(old.in_features), nn.Dropout(0.2), old))

METHODS = {"killed": Killed, "norm_x": exactly(Norm), **{f"{name}_x": exactly(METHODS[name]) for name in METHODS}}
"""


@pytest.fixture
def exact(make_run, tmp_path):
    """Give a function that makes runs of plugins that compute in float64, and settings in a folder of that name."""
    path = tmp_path / "exactly.py"
    path.write_text(EXACTLY)
    methods = available_methods([path])

    def make(method, seed=0, **changes):
        return make_run(method, seed, methods, changes, epochs=4, lr=0.01)

    return make, lambda name, **changes: Settings(tmp_path / name, plugins=(path,), checkpoint_seconds=0, **changes)


def compare(found, expected, key, ranks="2", **bounds):
    """Compare two finished runs up to rounding; all else must be the same."""
    one, two = (checkpoints.load(RunFolder(place.runs, key).checkpoint, key) for place in (found, expected))
    assert list(one.method) == list(two.method)
    torch.testing.assert_close(one.method, two.method, **(bounds or {"rtol": 1e-6, "atol": 1e-8}))
    assert one.epoch == two.epoch
    counts = ("forward_examples", "backward_examples", "optimizer_steps")
    assert [getattr(one.cost, name) for name in counts] == [getattr(two.cost, name) for name in counts]
    assert len(one.history) == len(two.history)
    for line, other in zip(one.history, two.history, strict=True):
        del line["time"], other["time"]
        assert line == pytest.approx(other, rel=1e-5)
    folders = [RunFolder(place.runs, key) for place in (found, expected)]
    assert all(folder.finished and not folder.progress.exists() for folder in folders)
    a, b = (read_json(folder.result)["metrics"] for folder in folders)
    assert read_json(folders[0].result)["provenance"].get("ranks") == ranks
    assert {name: a[name] for name in ("nll", "accuracy")} == pytest.approx(
        {name: b[name] for name in ("nll", "accuracy")}, rel=1e-4
    )


@pytest.mark.parametrize(
    "method",
    [
        "swa(late_phase_bn_x(K=2, start=1), start=2)",
        "early_stopping(mc_dropout_x(K=2), criterion=test)",
        "branched_x",
        "norm_x",
    ],
)
def test_a_run_has_the_results_of_one_process(pair, exact, method):
    make, settings = exact
    run = make(method, evaluate={"each_epoch": ["test"], "training_loss": True})
    assert execute(run, settings("one"), []) == ("finished", "")
    pair(jobs.execute_run, run, settings("two"), [])
    compare(settings("two"), settings("one"), run.key)


def test_a_run_resumes_with_another_number_of_ranks(pair, exact):
    make, settings = exact
    run = make("late_phase_rank1_x(K=3, start=1, leftover=carry)")
    execute(run, settings("whole"), [])
    ticks = []

    def stop():
        ticks.append(1)
        if len(ticks) == 2:
            raise InterruptedError

    assert execute(run, settings("pieces"), [], stop).state == "failed"
    assert checkpoints.load(RunFolder(settings("pieces").runs, run.key).checkpoint, run.key).epoch == 2
    pair(jobs.execute_run, run, settings("pieces"), [])
    compare(settings("pieces"), settings("whole"), run.key)


def test_deep_ensembles(pair, exact):
    make, settings = exact
    parts = [make("late_phase_bn_x(K=2, start=1)", seed) for seed in range(2)]
    whole = make("deep_ensemble(late_phase_bn_x(K=2, start=1), K=2)")
    for run in [*parts, whole]:
        needed = [part.key for part in parts] if run is whole else []
        assert execute(run, settings("one"), needed) == ("finished", "")
        pair(jobs.execute_run, run, settings("two"), needed)
        compare(settings("two"), settings("one"), run.key)


def test_a_checkpoint_that_cannot_be_read_is_put_aside_once(pair, make_run, tmp_path):
    run = make_run(epochs=1)
    folder = RunFolder(tmp_path, run.key)
    folder.path.mkdir(parents=True)
    folder.checkpoint.write_bytes(b"rubbish")
    pair(jobs.execute_run, run, Settings(tmp_path), [])
    assert folder.finished
    assert folder.checkpoint.with_name("checkpoint.corrupt.pt").read_bytes() == b"rubbish"


def test_too_small_a_last_minibatch_is_refused(pair, make_run, tmp_path):
    run = make_run(epochs=1, batch_size=1)
    with pytest.raises(AssertionError, match="a minibatch of 1 examples cannot be divided into 2 parts"):
        pair(jobs.execute_run, run, Settings(tmp_path), [])


@pytest.mark.long
def test_the_death_of_a_rank_ends_the_run_which_then_resumes(exact):
    make, settings = exact
    run, ticks, before = make("killed"), [], set(multiprocessing.active_children())
    state, reason = execute(run, settings("pieces", ranks=2), [], lambda: ticks.append(1))
    assert state == "failed"
    assert reason.startswith("RankError: rank 1 of 2 was killed by SIGKILL"), reason
    assert read_json(RunFolder(settings("pieces").runs, run.key).failure)["reason"] == reason
    assert len(ticks) == 2, "told of every epoch"
    assert set(multiprocessing.active_children()) <= before
    assert execute(run, settings("pieces"), []) == ("finished", "")
    execute(run, settings("whole"), [])
    compare(settings("pieces"), settings("whole"), run.key, ranks=None)


def test_text(pair, make_run, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    spec = make_run("late_phase_rank1(K=2, start=1)", batch_size=15)
    dataset = DatasetSpec(name=f"text:{path}", segment=20)
    run = spec.model_copy(update={"dataset": with_digest(dataset), "architecture": "lstm-8"})
    one, two = Settings(tmp_path / "one"), Settings(tmp_path / "two")
    assert execute(run, one, []) == ("finished", "")
    pair(jobs.execute_run, run, two, [])
    compare(two, one, run.key, rtol=1e-4, atol=1e-6)


# --- processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """Give a function that waits for fake processes with these exit codes and messages."""
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(ranks, "POLL_SECONDS", 0.01)

    def run(codes, *messages):
        receivers, ticks = [], []
        for sent in messages:
            receiver, sender = torch.multiprocessing.get_context("spawn").Pipe(duplex=False)
            for message in sent:
                sender.send(message)
            sender.close()
            receivers.append(receiver)
        wait_for_ranks([SimpleNamespace(exitcode=code) for code in codes], receivers, lambda: ticks.append(1))
        return len(ticks)

    return run


def test_waiting_for_ranks(watched):
    assert watched([0, 0], [None, None, None], []) == 3
    with pytest.raises(ZeroDivisionError, match="two"):
        watched([None, 1], [None], [None, ZeroDivisionError("two")])
    with pytest.raises(RankError, match=r"^rank 1 of 2 was killed by SIGKILL \(perhaps it ran out of memory\)"):
        watched([1, -signal.SIGKILL], [RuntimeError("connection closed by peer")], [])
    with pytest.raises(RankError, match=r"^rank 0 of 1 ended with exit code 3; started again, the run goes on"):
        watched([3], [None])


class OddError(Exception):
    """An error that pickling breaks."""

    def __init__(self, one, two):
        super().__init__(one)


def test_errors_are_made_picklable():
    error = make_picklable(ZeroDivisionError("why"), "in rank 1")
    assert (type(error), str(error), error.__notes__) == (ZeroDivisionError, "why", ["in rank 1"])
    odd = make_picklable(OddError("why", 2), "in rank 1")
    assert (type(odd), str(odd), odd.__notes__) == (RuntimeError, "OddError: why", ["in rank 1"])


def test_devices(monkeypatch):
    assert [rank_device("cuda", rank) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert [rank_device("cuda:2", rank) for rank in range(2)] == ["cuda:2", "cuda:3"]
    assert rank_device("cpu", 1) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_ranks("cpu", 9, 2)
    check_ranks("cuda:2", 2, 1)
    with pytest.raises(Refusal, match=r"^--ranks 3: each has a GPU of its own, the last one cuda:4, but there are 4$"):
        check_ranks("cuda:2", 3, 1)
    with pytest.raises(Refusal, match=r"^--ranks 2: 2 runs at once would use the same GPUs; take --engine inline$"):
        check_ranks("cuda", 2, 2)
