"""A method that reads the training data in two orders side by side."""

import json
from itertools import chain
from typing import ClassVar

import pytest
import torch

import methods
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from methods import Method
from tests.harness.conftest import N_TRAIN, RECIPE

EPOCHS = RECIPE["epochs"]


class TwoOrders(Method):
    """Trains two networks, each on the data in an order of its own."""

    seen: ClassVar[list[list[list[int]]]] = []  # of each update, the labels of each of its minibatches

    def __init__(self, make_net, recipe):
        super().__init__(make_net, recipe)
        self.other = make_net()

    def data_orders(self):
        return 2

    def batches_per_update(self):
        return 2

    def update(self, batches, optimizer):
        (x, y), (x2, y2) = batches
        self.seen.append([y.tolist(), y2.tolist()])
        optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        self.recipe.criterion(self.other(x2), y2).backward()
        optimizer.step()
        return loss.detach()


class OneOrder(Method):
    """Plain training that records the labels of its minibatches."""

    seen: ClassVar[list[list[int]]] = []

    def update(self, batches, optimizer):
        self.seen.append(batches[0][1].tolist())
        return super().update(batches, optimizer)


@pytest.fixture
def make(monkeypatch, make_run):
    for name, method in {"two": TwoOrders, "one": OneOrder}.items():
        monkeypatch.setitem(methods.METHODS, name, method)
        monkeypatch.setattr(method, "seen", [])
    return make_run


def finished_state(run, settings):
    return torch.load(RunFolder(settings.runs, run.key).checkpoint)["method"]


def test_order_0_is_that_of_plain_training_and_order_1_differs(make, tmp_path):
    two, one, settings = make("two"), make("one"), Settings(tmp_path)
    for run in (two, one):
        assert execute(run, settings, []) == ("finished", "")
    first, second = ([update[order] for update in TwoOrders.seen] for order in (0, 1))
    assert first == OneOrder.seen
    assert all(labels != others for labels, others in zip(first, second, strict=True))
    per_epoch = len(OneOrder.seen) // EPOCHS
    for epoch in range(EPOCHS):  # a pass of its own over all the data
        part = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        assert sorted(chain(*second[part])) == sorted(chain(*first[part]))
    assert second[:per_epoch] != second[per_epoch : 2 * per_epoch], "a new one every epoch"
    trained, plain = finished_state(two, settings), finished_state(one, settings)
    networks = [name for name, value in plain.items() if isinstance(value, torch.Tensor)]
    assert all(torch.equal(trained[name], plain[name]) for name in networks)
    assert any(not torch.equal(trained[name.replace("net.", "other.", 1)], plain[name]) for name in networks)


def test_both_orders_are_counted(make, tmp_path):
    run = make("two")
    execute(run, Settings(tmp_path), [])
    cost = json.loads(RunFolder(tmp_path, run.key).result.read_text())["cost"]
    assert cost["forward_examples"] == cost["backward_examples"] == 2 * EPOCHS * N_TRAIN
    assert cost["optimizer_steps"] == EPOCHS * -(-N_TRAIN // RECIPE["batch_size"])


class StopError(BaseException):
    """Interrupts a run: like Ctrl-C, it is no Exception."""


def stop():
    raise StopError


def test_resumed_it_has_the_same_bits(make, tmp_path, read_result):
    run = make("two")
    whole, pieces = Settings(tmp_path / "whole"), Settings(tmp_path / "pieces", checkpoint_seconds=0)
    execute(run, whole, [])
    for _ in range(EPOCHS):
        with pytest.raises(StopError):
            execute(run, pieces, [], stop)
    assert execute(run, pieces, []) == ("finished", "")
    assert read_result(pieces.runs, run.key) == read_result(whole.runs, run.key)
    state, other = finished_state(run, whole), finished_state(run, pieces)
    assert all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in state.items()
    )
