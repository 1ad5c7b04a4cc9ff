"""The training loop, and the life of one run: a run resumed anywhere has the same bits in the end."""

import json
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from data import Augmentation, ImageBatches
from data.corruptions import STANDARD_CORRUPTIONS
from harness.running import lifecycle
from harness.running.distributed.group import SINGLE_PROCESS
from harness.running.execute import execute
from harness.running.lifecycle import RunLifecycle
from harness.running.optimizers import make_optimizer
from harness.running.run_data import RunData
from harness.running.settings import Settings
from harness.running.training_loop import group_batches, train_epoch
from harness.store.outcome import ALREADY_FINISHED, DivergenceError
from harness.store.run_folder import RunFolder
from methods import SGD, Recipe
from tests.conftest import build, separable


class Minibatches(list):
    """A list of minibatches that `train_epoch` accepts as a pass."""


def batches(n=40, size=16):
    x, y = separable(n)
    return Minibatches(zip(x.split(size), y.split(size), strict=True))


# --- the loop -------------------------------------------------------------------------------------------------


def test_group_batches():
    assert list(group_batches(iter(range(7)), lambda: 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(group_batches(iter([]), lambda: 3)) == []


def test_an_epoch_equals_a_plain_loop():
    recipe = Recipe(epochs=4, lr=0.1, schedule={"kind": "linear", "start": 1, "end": 3, "ratio": 0.1})
    method, naive = build(SGD, recipe), build(SGD, recipe)
    optimizer = make_optimizer(method, recipe)
    plain = torch.optim.SGD(naive.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch, rate in enumerate((0.1, 0.1, 0.055, 0.01)):
        losses = []
        naive.train()
        for x, y in batches():
            for group in plain.param_groups:
                group["lr"] = rate
            plain.zero_grad()
            loss = torch.nn.functional.cross_entropy(naive.net(x), y)
            loss.backward()
            plain.step()
            losses.append(loss.item())
        found, last = train_epoch(method, optimizer, lambda _: batches(), epoch)
        assert last == pytest.approx(rate)
        assert found == pytest.approx(np.mean(losses), abs=1e-6)
    for p, q in zip(method.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(p, q)


class Recorder(SGD):
    """Records the calls of its hooks."""

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.calls = []

    def batches_per_update(self):
        return 2

    def lr(self, epoch):
        self.calls.append(("lr", epoch))
        return 0.0

    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        self.calls.append(("begin", epoch))

    def update(self, batches, optimizer):
        self.calls.append(("update", len(batches)))
        return torch.tensor(float(len(self.calls)))

    def end_epoch(self, epoch):
        self.calls.append(("end", epoch))


def test_hooks_are_called_in_order_with_their_positions():
    method = build(Recorder, Recipe(epochs=3))
    loss, _ = train_epoch(method, make_optimizer(method, method.recipe), lambda _: batches(), 1)
    assert method.calls == [
        ("begin", 1),
        ("lr", 1.0),
        ("update", 2),
        ("lr", 1 + 2 / 3),
        ("update", 1),
        ("end", 1),
    ]
    assert loss == pytest.approx((2 * 3 + 1 * 5) / 3), "the mean over minibatches, not over updates"


def test_groups_scale_the_rate():
    class Half(SGD):
        def param_groups(self):
            named = list(self.named_parameters())
            return [self.group(named[:1], 0.0, lr_scale=0.5), self.group(named[1:], 0.1)]

    method = build(Half, Recipe(epochs=1, lr=0.2))
    optimizer = make_optimizer(method, method.recipe)
    train_epoch(method, optimizer, lambda _: batches(), 0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_optimizers(optimizer, kind):
    recipe = Recipe(epochs=1, optimizer=optimizer, momentum=0.0)
    made = make_optimizer(build(SGD, recipe), recipe)
    assert type(made) is kind
    if kind is torch.optim.SGD:
        assert [(group["nesterov"], group["momentum"]) for group in made.param_groups] == [(False, 0.0)]


def test_an_unknown_optimizer_is_refused_and_an_empty_group_left_out():
    class Odd(SGD):
        def param_groups(self):
            return [*super().param_groups(), self.group([], 0.0)]

    method = build(Odd, Recipe(epochs=1))
    assert len(make_optimizer(method, method.recipe).param_groups) == 1
    method.param_groups = lambda: [SGD.param_groups(method)[0] | {"optimizer": "rmsprop"}]
    with pytest.raises(ValueError, match="Odd.param_groups: unknown optimizer 'rmsprop'; there are"):
        make_optimizer(method, method.recipe)


def test_a_loss_that_is_not_finite_ends_training():
    class Lost(SGD):
        def update(self, batches, optimizer):
            return torch.tensor(float("nan"))

        def end_epoch(self, epoch):
            raise AssertionError("an epoch that diverged does not end")

    method = build(Lost, Recipe(epochs=2))
    with pytest.raises(DivergenceError, match=r"^the training loss became nan in epoch 2 at learning rate 0.1$"):
        train_epoch(method, make_optimizer(method, method.recipe), lambda _: batches(), 1)


# --- one run --------------------------------------------------------------------------------------------------

METHODS_TO_RESUME = [
    "sgd",
    "swa(late_phase_bn(K=2, start=1), start=2)",
    "late_phase_bn(K=3, start=1, sigma0=0.1, prediction=members)",
    "line(prediction=pair)",
    "snapshot(M=2)",
    "mc_dropout(K=2)",
    "swag(start=1, N=2)",
    "swa(every=step, start=1)",
    "batch_ensemble(K=2)",
    "hypernet_ensemble(K=2, start=1)",
    "late_independent(K=2, start=1)",
    "late_phase_bn(K=3, start=1, leftover=carry, member_optimizer=adam)",
    "simplex(prediction=random, points=2, layerwise=True)",
]


class StopError(BaseException):
    """As Ctrl-C: no Exception."""


def stop_after(epochs):
    """Make a report that interrupts after some epochs."""
    done = []

    def report():
        done.append(1)
        if len(done) == epochs:
            raise StopError

    return report


@pytest.mark.parametrize("method", METHODS_TO_RESUME)
def test_resumed_after_every_epoch_a_run_has_the_same_bits(method, make_run, tmp_path, read_result):
    run = make_run(method, epochs=4)
    whole = Settings(tmp_path / "whole", checkpoint_seconds=1000)
    pieces = Settings(tmp_path / "pieces", checkpoint_seconds=0)
    assert execute(run, whole, []) == ("finished", "")
    for _ in range(3):
        with pytest.raises(StopError):
            execute(run, pieces, [], stop_after(1))
        assert not RunFolder(pieces.runs, run.key).finished
    reports = []
    assert execute(run, pieces, [], lambda: reports.append(1)) == ("finished", "")
    assert len(reports) == 1, "three epochs were not trained again"
    assert read_result(pieces.runs, run.key) == read_result(whole.runs, run.key)
    state, other = (torch.load(RunFolder(s.runs, run.key).checkpoint)["method"] for s in (whole, pieces))
    assert state.keys() == other.keys()
    for name, value in state.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


def test_a_run_that_was_resumed_has_the_same_metrics_on_corrupted_images(make_run, tmp_path, read_result):
    run = make_run("late_phase_bn(K=2, start=1)", epochs=2)
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"corruptions": "generated"})})
    whole, pieces = (Settings(tmp_path / name, checkpoint_seconds=0) for name in ("whole", "pieces"))
    assert execute(run, whole, []) == ("finished", "")
    with pytest.raises(StopError):
        execute(run, pieces, [], stop_after(1))
    assert execute(run, pieces, []) == ("finished", "")
    result = read_result(pieces.runs, run.key)
    assert result == read_result(whole.runs, run.key)
    measured = [name for name in result["metrics"] if name.startswith("generated/corruption_error/")]
    assert len(measured) == len(STANDARD_CORRUPTIONS)


def test_without_a_checkpoint_epochs_are_trained_again_to_the_same_end(make_run, tmp_path, read_result):
    run = make_run()
    seldom, always = Settings(tmp_path / "a", checkpoint_seconds=1000), Settings(tmp_path / "b", checkpoint_seconds=0)
    with pytest.raises(StopError):
        execute(run, seldom, [], stop_after(2))
    assert not RunFolder(seldom.runs, run.key).checkpoint.exists()
    assert RunFolder(seldom.runs, run.key).read_epochs() == []
    execute(run, seldom, [])
    execute(run, always, [])
    assert read_result(seldom.runs, run.key) == read_result(always.runs, run.key)


@pytest.mark.parametrize("when", ["evaluate", "write_json"])
def test_killed_after_training_a_run_is_only_evaluated_again(make_run, tmp_path, read_result, monkeypatch, when):
    run = make_run("swa(start=1)")
    whole, pieces = Settings(tmp_path / "whole"), Settings(tmp_path / "pieces")
    execute(run, whole, [])

    def dies(*args, **kwargs):
        if when == "evaluate" or args[0].name == "result.json":
            raise StopError
        return writing(*args, **kwargs)

    writing = lifecycle.write_json
    monkeypatch.setattr(lifecycle, when, dies)
    with pytest.raises(StopError):
        execute(run, pieces, [])
    monkeypatch.undo()
    assert not RunFolder(pieces.runs, run.key).finished

    def never(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(lifecycle, "train_epoch", never)
    assert execute(run, pieces, []) == ("finished", "")
    assert read_result(pieces.runs, run.key) == read_result(whole.runs, run.key)


def test_the_result(make_run, tmp_path):
    run = make_run("late_phase_bn(K=2, start=1, prediction=members)")
    assert execute(run, Settings(tmp_path), []).state == "finished"
    folder = RunFolder(tmp_path, run.key)
    result = json.loads(folder.result.read_text())
    assert (result["key"], result["run"], result["spec"]) == (run.key, str(run), run.spec())
    assert result["evaluated_on"] == "test"
    assert json.loads(folder.spec.read_text()) == run.spec()
    assert result["metrics"]["members"] == 2.0
    assert {name: len(curve) for name, curve in result["members"].items()} == {"accuracy": 2, "nll": 2, "ece": 2}
    assert result["metrics"]["accuracy"] == result["members"]["accuracy"][-1]
    machine = {"commit", "python", "torch", "device", "threads", "cpus", "tf32", "deterministic"}
    assert set(result["provenance"]) == {*machine, "fuse_up_to", "compile"}
    epochs = folder.read_epochs()
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert all(a["time"] <= b["time"] for a, b in pairwise(epochs))
    assert {path.name for path in folder.path.iterdir()} == {
        "spec.json",
        "checkpoint.pt",
        "metrics.jsonl",
        "predictions.npz",
        "result.json",
        "claim.1",
    }


def test_a_finished_run_is_left_alone(make_run, tmp_path):
    run = make_run()
    execute(run, Settings(tmp_path), [])
    before = {path: path.stat().st_mtime_ns for path in RunFolder(tmp_path, run.key).path.iterdir()}
    time.sleep(0.01)
    assert execute(run, Settings(tmp_path), []) == ("finished", ALREADY_FINISHED)
    after = {path: path.stat().st_mtime_ns for path in RunFolder(tmp_path, run.key).path.iterdir()}
    assert after == before


@pytest.mark.parametrize("harm", ["truncated", "garbage", "another run's"])
def test_a_corrupt_checkpoint_is_renamed_and_the_run_starts_again(make_run, tmp_path, read_result, harm, capsys):
    run, other = make_run("swa(start=1)"), make_run("swa(start=1)", seed=1)
    whole, pieces = Settings(tmp_path / "whole"), Settings(tmp_path / "pieces", checkpoint_seconds=0)
    execute(run, whole, [])
    with pytest.raises(StopError):
        execute(run, pieces, [], stop_after(2))
    folder = RunFolder(pieces.runs, run.key)
    content = folder.checkpoint.read_bytes()
    if harm == "truncated":
        folder.checkpoint.write_bytes(content[: len(content) // 2])
    elif harm == "garbage":
        folder.checkpoint.write_bytes(b"garbage")
    else:
        with pytest.raises(StopError):
            execute(other, pieces, [], stop_after(1))
        folder.checkpoint.write_bytes(RunFolder(pieces.runs, other.key).checkpoint.read_bytes())
    harmed = folder.checkpoint.read_bytes()
    assert execute(run, pieces, []) == ("finished", "")
    assert read_result(pieces.runs, run.key) == read_result(whole.runs, run.key)
    assert folder.checkpoint.with_name("checkpoint.corrupt.pt").read_bytes() == harmed
    assert "put aside as checkpoint.corrupt.pt" in capsys.readouterr().err


PLUGIN = """
from pathlib import Path
from methods import Method
class Broken(Method):
    def end_epoch(self, epoch):
        if epoch == 1 and not Path(__file__).with_name("mended").exists():
            raise ValueError("[/boo] at the end of epoch 1")
"""


def test_a_failing_method_is_recorded_with_its_traceback(make_run, tmp_path):
    from harness.parsing.plugins import available_methods

    (tmp_path / "broken.py").write_text(PLUGIN)
    settings = Settings(tmp_path / "runs", plugins=(tmp_path / "broken.py",), checkpoint_seconds=0)
    run = make_run("broken", methods=available_methods(settings.plugins))
    assert execute(run, settings, []) == ("failed", "ValueError: [/boo] at the end of epoch 1")
    folder = RunFolder(settings.runs, run.key)
    failure = json.loads(folder.failure.read_text())
    assert (failure["state"], failure["reason"]) == ("failed", "ValueError: [/boo] at the end of epoch 1")
    assert 'raise ValueError("[/boo] at the end of epoch 1")' in failure["traceback"]
    assert not folder.finished
    # Once it does not fail any more, it goes on, and the old failure is forgotten.
    (tmp_path / "mended").touch()
    assert execute(run, settings, []) == ("finished", "")
    assert not folder.failure.exists()


def test_a_huge_learning_rate_diverges(make_run, tmp_path):
    run = make_run(lr=1e30)
    state, reason = execute(run, Settings(tmp_path), [])
    assert state == "diverged"
    assert reason.startswith(("the training loss became ", "not a number at evaluation: "))
    folder = RunFolder(tmp_path, run.key)
    assert json.loads(folder.failure.read_text())["state"] == "diverged"
    assert not folder.finished


def test_a_run_in_a_folder_that_cannot_be_written_fails(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    state, reason = execute(make_run(), Settings(tmp_path / "file"), [])
    assert state == "failed"
    assert "NotADirectoryError" in reason
    assert "could not be recorded" in reason


def test_seeds_and_threads(make_run, tmp_path, read_result):
    results = []
    for seed, place in ((0, "a"), (0, "b"), (1, "a")):
        execute(make_run(seed=seed), Settings(tmp_path / place), [])
        result = read_result(tmp_path / place, make_run(seed=seed).key)
        results.append((result["epochs"], result["predictions"]))
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("where", ["augmented", "plain"])
def test_statistics_are_re_estimated_on_augmented_or_plain_data(where, make_run, tmp_path):
    run = make_run("swa(start=1)")
    run = run.model_copy(update={"recipe": run.recipe.model_copy(update={"reestimate_on": where})})
    run_lifecycle = RunLifecycle(run, Settings(tmp_path), RunFolder(tmp_path, run.key), lambda: None)
    task = replace(run_lifecycle.task, augmentation=Augmentation(padding=2))
    given = RunData(task, run, SINGLE_PROCESS, lambda: 0)
    plain = ImageBatches(task.train, 1000, mean=task.mean, std=task.std)
    ((x, _),) = plain
    seen = torch.cat([x for x, _ in given.for_statistics("prepare")])
    assert len(seen) == len(x)
    same = torch.isin(seen.sum((1, 2, 3)).double(), x.sum((1, 2, 3)).double()).float().mean()
    assert same == 1.0 if where == "plain" else same < 0.5
