"""Tests that checkpoints are saved and loaded, and that other files are refused."""

import copy
import itertools
import pickle
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from harness.costs.cost import Cost, CostCounter
from harness.costs.peak_memory import PeakMemory
from harness.running.optimizers import make_optimizer
from harness.running.run_state import RunState
from harness.store import checkpoint as checkpoints
from harness.store.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointTimer,
    check_parameter_names,
    load,
    load_optimizer_state,
    optimizer_state,
)
from harness.store.run_folder import RunFolder
from methods import SGD, SWA, LatePhaseBatchNorm, Recipe
from tests.conftest import build, separable

KEY = "a" * 64


def some(**changes):
    values = {
        "key": KEY,
        "epoch": 3,
        "prepared": False,
        "method": {"net.weight": torch.randn(4, 3), "_extra_state": {"epoch": 2}},
        "optimizer": {"net.weight": {"momentum_buffer": torch.randn(4, 3)}},
        "cost": Cost(10, 20, 30, 1.5),
        "history": [{"epoch": 1, "time": 0.5, "train/loss": 0.1}],
    }
    return Checkpoint(**(values | changes))


def test_round_trip(tmp_path):
    saved = some()
    saved.save(tmp_path / "c.pt")
    read = load(tmp_path / "c.pt", KEY)
    assert torch.equal(read.method["net.weight"], saved.method["net.weight"])
    assert read.method["_extra_state"] == {"epoch": 2}
    buffer = read.optimizer["net.weight"]["momentum_buffer"]
    assert torch.equal(buffer, saved.optimizer["net.weight"]["momentum_buffer"])
    assert (read.key, read.epoch, read.prepared) == (KEY, 3, False)
    assert (read.cost, read.history) == (saved.cost, saved.history)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_every_truncation_and_every_kind_of_garbage_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    some().save(path)
    whole = path.read_bytes()
    draw = random.Random(0)
    broken = [whole[:n] for n in (0, 1, 2, 100, len(whole) // 2, len(whole) - 1)]
    broken += [draw.randbytes(n) for n in (1, 10, 1000)]
    broken += [b"\x80\x02" + draw.randbytes(50), b"text\n", b"\0" * len(whole), whole[:200] + bytes(200) + whole[400:]]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"c\.pt: not a readable checkpoint \(\w+\)$"):
            load(path, KEY)


def test_a_flipped_byte_is_refused_or_harmless(tmp_path):
    path = tmp_path / "c.pt"
    saved = some()
    saved.save(path)
    whole = path.read_bytes()
    draw = random.Random(1)
    for _ in range(150):
        at = draw.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        try:
            read = load(path, KEY)
        except CheckpointError:
            continue
        assert torch.equal(read.method["net.weight"], saved.method["net.weight"]), at
        assert (read.epoch, read.cost, read.history) == (3, saved.cost, saved.history), at


def test_a_file_that_is_not_there_is_no_corrupt_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "c.pt", KEY)


@pytest.mark.parametrize("content", [[], 3, {}, {"format": 1}, {"format": 1, "key": KEY, "cost": {"x": 1}}])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load(tmp_path / "c.pt", KEY)


def test_another_run_or_format_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    some(key="b" * 64).save(path)
    with pytest.raises(CheckpointError, match="of format 2 and run bbbbbbbb, not 2 and aaaaaaaa"):
        load(path, KEY)
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    some().save(path)
    monkeypatch.setattr(checkpoints, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="of format 2"):
        load(path, KEY)


class Hack:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (open, ("hacked", "w"))


def pickle_only(value, path):
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize(("save", "reason"), [(torch.save, "UnpicklingError"), (pickle_only, "BadZipFile")])
def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch, save, reason):
    monkeypatch.chdir(tmp_path)
    save({"format": 1, "key": Hack()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path / "c.pt", KEY)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_optimizer_state_goes_by_names(optimizer):
    """A trunk's state fits a method with other parameter groups. Members without a gradient have no state."""
    recipe = Recipe(epochs=4, optimizer=optimizer)
    plain = build(SGD, recipe)
    first = make_optimizer(plain, recipe)
    plain.update([separable(8)], first)
    state = copy.deepcopy(optimizer_state(first))
    assert state.keys() == {f"net.{name}" for name, _ in plain.net.named_parameters()}

    late = build(partial(LatePhaseBatchNorm, K=2, start=2), recipe)
    second = make_optimizer(late, recipe)
    load_optimizer_state(second, state)
    assert optimizer_state(second).keys() == state.keys()
    for name, values in state.items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(optimizer_state(second)[name][key]), torch.as_tensor(value))
    late.load_state_dict(plain.state_dict(), strict=False)
    late.begin_epoch(0)
    plain.begin_epoch(0)
    plain.update([separable(8, 1)], first)
    late.update([separable(8, 1)], second)
    for p, q in zip(plain.net.parameters(), late.net.parameters(), strict=True):
        assert torch.equal(p, q)


def test_names_must_be_unique():
    class Twice(SGD):
        def param_groups(self):
            return super().param_groups() * 2

    with pytest.raises(ValueError, match=r"^Twice.param_groups: 'net.conv.weight' appears twice$"):
        check_parameter_names(build(Twice, Recipe(epochs=1)))
    check_parameter_names(build(partial(SWA, start=0), Recipe(epochs=1)))


SPOILT = {
    "a tensor of another shape": lambda content, name: content["method"].update({name: torch.zeros(7)}),
    "no tensor": lambda content, name: content["method"].update({name: "text"}),
    "a tensor is missing": lambda content, name: content["method"].pop(name),
    "a tensor too many": lambda content, name: content["method"].update(more=torch.zeros(1)),
    "no method": lambda content, name: content.update(method=None),
    "an epoch too late": lambda content, name: content.update(epoch=5),
    "an epoch too early": lambda content, name: content.update(epoch=-1),
    "an epoch that is no number": lambda content, name: content.update(epoch="two"),
    "a key that is no text": lambda content, name: content.update(key=3),
    "momentum of another shape": lambda content, name: content["optimizer"].update({name: {"m": torch.zeros(7)}}),
    "momentum of another parameter": lambda content, name: content["optimizer"].update(more={"m": torch.zeros(1)}),
    "no history": lambda content, name: content.update(history=3),
    "lines of history that are none": lambda content, name: content.update(history=["x", 1]),
    "costs that are no numbers": lambda content, name: content["cost"].update(forward_examples="x"),
    "complex weights": lambda content, name: content["method"].update({name: content["method"][name] * 1j}),
    "whole numbers for weights": lambda content, name: content["method"].update({name: content["method"][name].int()}),
    "an epoch of the method that is text": lambda content, name: content["method"].update(_extra_state="text"),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_checkpoint_with_wrong_contents_is_put_aside_before_anything_is_loaded(tmp_path, capsys, spoil):
    def make():
        method = build(SGD, Recipe(epochs=4))
        optimizer = make_optimizer(method, method.recipe)
        counter, folder = CostCounter(), RunFolder(tmp_path, KEY)
        peak = PeakMemory(torch.device("cpu"))
        return RunState(method, optimizer, counter, peak, folder, is_trunk=False, is_writer=True)

    first = make()
    first.method.update([separable(8)], first.optimizer)
    first.epoch, first.history = 1, [{"epoch": 1, "time": 1.0}]
    first.save()
    assert make().resume("it") is False
    content = torch.load(first.folder.checkpoint, weights_only=True)
    SPOILT[spoil](content, "net.conv.weight")
    torch.save(content, first.folder.checkpoint)
    state = make()
    before = copy.deepcopy(state.method.state_dict())
    assert state.resume("it") is False and state.epoch == 0
    assert "put aside as checkpoint.corrupt.pt, it starts anew" in capsys.readouterr().err
    assert not first.folder.checkpoint.exists()
    for name, value in state.method.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, before[name])


def test_numbers_of_one_kind_and_extra_states_may_change_in_training():
    state = {"best": None, "total": torch.zeros(2), "extra": {"epoch": 0}}
    saved = some(method={"best": 0.83, "total": torch.zeros(2).double(), "extra": {"epoch": 3}}, optimizer={})
    checkpoints.check_fits(saved, "c.pt", state, None)
    with pytest.raises(CheckpointError, match=r"total is whole numbers \(2,\), not floating numbers \(2,\)"):
        checkpoints.check_fits(some(method=saved.method | {"total": torch.zeros(2).int()}), "c.pt", state, None)


# --- when a checkpoint is due ---------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock of which the hand is moved by the test."""
    hand = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: hand.seconds)
    return hand


def save_over(clock, timer, hours, epoch_seconds, saving_seconds):
    """Train for hours; return at which seconds a checkpoint was saved."""
    saved = []
    while clock.seconds < 3600 * hours:
        clock.seconds += epoch_seconds
        if timer.is_due():
            with timer.saving():
                clock.seconds += saving_seconds
            saved.append(clock.seconds)
    return saved


@pytest.mark.parametrize("saving_seconds", [0.0, 0.01, 1.0, 30.0, 300.0])
def test_checkpoints_take_at_most_a_twentieth_of_the_time(clock, saving_seconds):
    saved = save_over(clock, CheckpointTimer(10.0), 10, 7.0, saving_seconds)
    assert saving_seconds * len(saved) <= 0.05 * clock.seconds
    pauses = [later - earlier for earlier, later in itertools.pairwise([0.0, *saved])]
    assert min(pauses) >= 10.0
    if saving_seconds <= 0.01:
        assert max(pauses) < 15.0, "no further apart than that"
    assert len(saved) > 3


def test_zero_seconds_mean_every_epoch_whatever_it_takes(clock):
    assert len(save_over(clock, CheckpointTimer(0.0), 1, 10.0, 50.0)) == 60
