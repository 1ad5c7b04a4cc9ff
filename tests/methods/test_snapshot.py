"""Snapshot ensembles: their schedule and their states."""

import math
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from harness.running.optimizers import make_optimizer
from methods import SWA, EarlyStopping, Recipe, Snapshot
from tests.conftest import build
from tests.methods.training import assert_close, finish, train_epochs, trajectory


def test_snapshots_are_the_states_at_the_cycles_ends(batches):
    recipe = Recipe(epochs=7, lr=0.05)
    method = build(Snapshot, recipe, M=3)
    assert method.cycle_ends == [2, 5, 7]
    states = trajectory(method, recipe, batches)
    for end, weights in zip(method.cycle_ends, method.members(), strict=True):
        assert_close(states[end - 1], weights, 0)


def test_a_snapshot_of_an_average_re_estimates_its_statistics(recipe, batches):
    """The last snapshot of an averaged run is the average itself, statistics and all."""
    method = build(Snapshot, recipe, of=partial(SWA, start=3), M=2)
    train_epochs(method, make_optimizer(method, recipe), batches)
    reference = deepcopy(method.inner)
    finish(method, batches)
    finish(reference, batches)
    assert_close(next(iter(reference.members())), list(method.members())[-1], 0)
    assert not torch.equal(list(method.members())[-1]["norm.running_mean"], method.inner.net.norm.running_mean)


def test_snapshot_schedule_is_equation_2():
    method = build(Snapshot, Recipe(epochs=40, lr=0.2), M=4)
    for epoch in np.arange(0, 40, 0.25):
        expected = 0.2 / 2 * (math.cos(math.pi * (epoch % 10) / 10) + 1)
        assert method.lr(epoch) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="M = 5 cycles do not fit into 4 epochs"):
        build(Snapshot, Recipe(epochs=4), M=5)


def test_cycles_fill_the_epochs_from_the_start_on(batches):
    recipe = Recipe(epochs=8, lr=0.2, schedule={"kind": "linear", "start": 0, "end": 2, "ratio": 0.5})
    method = build(Snapshot, recipe, M=2, start=3, ratio=2.0)
    assert method.cycle_ends == [5, 8]  # 3 + 2.5, rounded to the even number
    assert [method.lr(e) for e in (0, 1, 2, 2.5)] == [recipe.learning_rate(e) for e in (0, 1, 2, 2.5)]
    for epoch in np.arange(3, 8, 0.25):
        done = (epoch - 3) / 2 if epoch < 5 else (epoch - 5) / 3
        assert method.lr(epoch) == pytest.approx(0.4 / 2 * (math.cos(math.pi * done) + 1), rel=1e-9)
    states = trajectory(method, recipe, batches)
    for end, weights in zip(method.cycle_ends, method.members(), strict=True):
        assert_close(states[end - 1], weights, 0)


def test_cycles_may_have_given_ends(batches):
    recipe = Recipe(epochs=6, lr=0.2, schedule={"kind": "cosine", "warmup": 1})
    method = build(Snapshot, recipe, M=3, ends=(3, 4, 6), rate="inner")
    assert [method.lr(e) for e in range(6)] == [recipe.learning_rate(e) for e in range(6)]
    states = trajectory(method, recipe, batches)
    for end, weights in zip((3, 4, 6), method.members(), strict=True):
        assert_close(states[end - 1], weights, 0)
    for wrong in ((3, 6), (4, 3, 6), (2, 4, 5), (0, 4, 6), (3, 3, 6)):
        with pytest.raises(ValueError, match="must be M = 3 rising numbers of epochs after 0, up to 6"):
            build(Snapshot, recipe, M=3, ends=wrong)


def test_snapshots_of_an_averaged_run_at_its_own_rate():
    """The snapshot ensemble that hypernetwork ensembles are compared with: ten from epoch 164 of 200 to the last."""
    recipe = Recipe(epochs=200, lr=0.1)
    method, swa = build(Snapshot, recipe, of=SWA, M=10, start=0.8, rate="inner"), build(SWA, recipe)
    assert method.cycle_ends == [164, 168, 172, 176, 180, 184, 188, 192, 196, 200]
    assert [method.lr(e) for e in range(200)] == [swa.lr(e) for e in range(200)]


def test_a_rate_without_restarts_has_no_rate_at_a_restart(recipe):
    with pytest.raises(ValueError, match="rate=inner has no restarts"):
        build(Snapshot, recipe, M=2, rate="inner", ratio=0.5)
    with pytest.raises(ValueError, match="M = 3 cycles do not fit into 2 epochs"):
        build(Snapshot, recipe, M=3, start=4)


def test_a_snapshot_of_early_stopping_knows_its_own_epoch(recipe, batches):
    """It is taken again once the epoch's end was watched."""
    method = build(Snapshot, recipe, of=EarlyStopping, M=2)
    optimizer = make_optimizer(method, recipe)
    best = []
    for epoch in range(recipe.epochs):
        train_epochs(method, optimizer, batches, first=epoch, last=epoch + 1)
        best.append(int(method.inner.best_epoch))
    assert [int(copy.best_epoch) for copy in method.snapshots] == [best[end - 1] for end in method.cycle_ends]
    assert best[method.cycle_ends[0] - 1] == method.cycle_ends[0] - 1, (
        "the epoch in which the snapshot is taken was the best so far"
    )
