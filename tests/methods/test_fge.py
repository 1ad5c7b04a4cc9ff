"""Fast geometric ensembles: their schedule and their states."""

from functools import partial

import numpy as np
import pytest

from methods import LatePhaseBatchNorm, Recipe
from methods.fge import FGE
from tests.conftest import build
from tests.methods.training import assert_close, finish, trajectory


@pytest.mark.parametrize("cycle", [2, 4])
def test_the_schedule_is_triangular_in_every_cycle(cycle):
    method = build(FGE, Recipe(epochs=20, lr=0.1), start=8, cycle=cycle, ratio=0.5, low=0.1)
    for epoch in np.arange(8, 20, 0.125):
        t = (epoch - 8) % cycle / cycle
        expected = (1 - 2 * t) * 0.05 + 2 * t * 0.01 if t < 0.5 else (2 - 2 * t) * 0.01 + (2 * t - 1) * 0.05
        assert method.lr(epoch) == pytest.approx(expected, rel=1e-9)


def test_the_paper_collects_twenty_members_in_forty_epochs():
    method = build(FGE, Recipe(epochs=200, lr=0.1))
    assert method.cycle_ends == list(range(161, 200, 2))
    assert all(method.lr(end - 1e-9) == pytest.approx(0.01) == method.lr(end) for end in method.cycle_ends)
    assert method.lr(160) == method.lr(162) == pytest.approx(0.05)


def test_before_its_start_the_rate_is_the_inner_methods():
    recipe = Recipe(epochs=20, lr=0.1, schedule={"kind": "cosine", "warmup": 2})
    method = build(FGE, recipe, start=8)
    assert [method.lr(e) for e in range(8)] == [recipe.learning_rate(e) for e in range(8)]


def test_members_are_the_states_at_the_minima_of_the_rate(batches):
    recipe = Recipe(epochs=11, lr=0.05)
    method = build(FGE, recipe, start=2, cycle=4)
    states = trajectory(method, recipe, batches)
    finish(method, batches)
    members = list(method.members())
    assert len(members) == 2
    assert_close(states[3], members[0], 0)
    assert_close(states[7], members[1], 0)


def test_members_have_the_inner_methods_members(recipe, batches):
    inner = partial(LatePhaseBatchNorm, K=3, start=1, prediction="members")
    method = build(FGE, recipe, of=inner, start=2)
    trajectory(method, recipe, batches)
    assert len(list(finish(method, batches).members())) == 2 * 3


@pytest.mark.parametrize(("epochs", "start", "cycle"), [(200, 160, 2), (11, 2, 4), (10, 9, 2), (7, 2, 6), (9, 1, 2)])
def test_its_cost_is_what_it_says(epochs, start, cycle):
    method = build(FGE, Recipe(epochs=epochs), start=start, cycle=cycle)
    said = eval(FGE.about.prediction, {"epochs": epochs, "start": start / epochs, "cycle": cycle})
    assert said == len(method.snapshots)


def test_what_collects_nothing_is_refused(recipe):
    with pytest.raises(ValueError, match="training ends before the middle of a cycle of 8 epochs from 3 on"):
        build(FGE, recipe, start=3, cycle=8)
    with pytest.raises(ValueError, match=r"low=0.9, the lowest rate of a cycle, is above ratio=0.5"):
        build(FGE, recipe, low=0.9)
