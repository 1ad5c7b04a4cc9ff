"""What is warmed up on a GPU before seconds are counted: every size of an update that this and later epochs meet."""

import pytest
import torch

from harness.running.training_loop import warm_up_epoch
from methods import SGD, GradientAccumulation, MakeNet, Recipe
from tests.conftest import TinyNet, build, separable


class Minibatches(list):
    """Seven minibatches, the last of which is smaller."""

    examples = 7 * 4 - 1


@pytest.fixture
def data():
    x, y = separable(Minibatches.examples)
    return lambda order: Minibatches(zip(x.split(4), y.split(4), strict=True))


def sizes_of(method, data, monkeypatch):
    """Return the numbers of minibatches of the updates of a warm-up."""
    seen = []

    def update(self, batches, optimizer):
        seen.append(len(batches))
        return original(self, batches, optimizer)

    original = type(method).update
    monkeypatch.setattr(type(method), "update", update)
    before = {name: value.clone() for name, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    warm_up_epoch(method, data, 0)
    after = method.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    return seen


def test_cycles_that_epochs_cut_have_all_sizes(data, monkeypatch):
    """Cycles of four: 4 and 3, then 1, 4 and 2, then 2, 4 and 1, then 3 and 4."""
    method = build(GradientAccumulation, Recipe(epochs=9), K=4, start=0)
    assert set(sizes_of(method, data, monkeypatch)) == {1, 2, 3, 4}


def test_plain_training_has_two_kinds(data, monkeypatch):
    method = SGD(MakeNet(TinyNet, 0), Recipe(epochs=9))
    assert len(sizes_of(method, data, monkeypatch)) == 2, "a whole minibatch, and the last one"


def test_updates_that_grow_come_to_an_end(data, monkeypatch):
    class Growing(SGD):
        size = 1

        def batches_per_update(self):
            return self.size

        def update(self, batches, optimizer):
            self.size *= 2
            return super().update(batches[:1], optimizer)

    method = Growing(MakeNet(TinyNet, 0), Recipe(epochs=9))
    assert max(sizes_of(method, data, monkeypatch)) == 7
