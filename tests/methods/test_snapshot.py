"""Snapshot ensembles: their schedule and their states."""

import math
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from harness.optimizers import make_optimizer
from methods import SWA, Recipe, Snapshot
from tests.conftest import build
from tests.methods.loops import assert_close, finish, run, trajectory


def test_snapshots_are_the_states_at_the_cycles_ends(batches):
    recipe = Recipe(epochs=7, lr=0.05)
    method = build(Snapshot, recipe, M=3)
    assert method.ends == [2, 5, 7]
    states = trajectory(method, recipe, batches)
    for end, weights in zip(method.ends, method.members(), strict=True):
        assert_close(states[end - 1], weights, 0)


def test_a_snapshot_of_an_average_re_estimates_its_statistics(recipe, batches):
    """The last snapshot of an averaged run is the average itself, statistics and all."""
    method = build(Snapshot, recipe, of=partial(SWA, start=3), M=2)
    run(method, make_optimizer(method, recipe), batches)
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
