"""Methods with learning rates of their own keep the recipe's warm-up, and a new optimizer where they follow it."""

from functools import partial

import pytest
import torch
from torch.optim.swa_utils import SWALR

from harness.running.optimizers import make_optimizer
from methods import FGE, SGD, SWA, SWAG, Recipe, Snapshot
from tests.conftest import build
from tests.methods.training import train_epochs

OWN = {"swa": SWA, "swag": SWAG, "snapshot": partial(Snapshot, M=2), "fge": partial(FGE, start=2, cycle=2)}
WARM = {"kind": "cosine", "warmup": 5}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["constant", "linear", "step", "cosine"])
@pytest.mark.parametrize("by", ["epoch", "minibatch"])
def test_warm_up_is_kept(name, kind, by):
    more = {"milestones": [8]} if kind == "step" else {}
    warm, cold = ({"kind": kind, "warmup": w, "warmup_by": by, **more} for w in (5, 0))
    recipes = [Recipe(epochs=10, lr=0.1, schedule=schedule) for schedule in (warm, cold)]
    method, without = (build(OWN[name], recipe) for recipe in recipes)
    for epoch in (0, 0.5, 1, 3.75, 4):
        rising = epoch / 5 if by == "minibatch" else (int(epoch) + 1) / 5
        assert recipes[0].warmup_factor(epoch) == pytest.approx(rising)
        own = rising * without.lr(epoch)
        assert method.lr(epoch) == pytest.approx(
            recipes[0].learning_rate(epoch) if method.follows_inner(epoch) else own
        )
    assert method.lr(9) == pytest.approx(without.lr(9)), "after the warm-up"


def test_the_rates_of_a_warm_up_of_five_epochs():
    """Of swa, which used to begin at 0.1."""
    method = build(SWA, Recipe(epochs=10, lr=0.1, schedule=WARM))
    assert [method.lr(e) for e in (0, 1, 4)] == pytest.approx([0.02, 0.04, 0.1])


def test_a_high_rate_may_go_on_from_the_recipes_as_in_torch():
    """From epoch 6 on, torch's SWALR anneals the rate that the recipe has reached by then, along half a cosine."""
    recipe = Recipe(epochs=16, lr=0.1, schedule={"kind": "step", "milestones": [3], "ratio": 0.1})
    method = build(SWA, recipe, start=6, ratio=0.5, before="recipe", anneal=4)
    assert [method.lr(e) for e in range(6)] == [recipe.learning_rate(e) for e in range(6)]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate(6))
    scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=4, anneal_strategy="cos")
    for epoch in range(6, 16):
        assert method.lr(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), epoch
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    ("schedule", "highest"),
    [
        ({"kind": "stages", "stages": [{"epochs": 6, "ratio": 0.1}, {"epochs": 4, "ratio": 0.01}]}, 0.1),
        ({"kind": "stages", "stages": [{"epochs": 5}, {"epochs": 5, "ratio": 2.0}]}, 2.0),
        ({"kind": "step", "milestones": [8], "ratio": 3.0}, 3.0),
    ],
)
def test_rates_are_relative_to_the_recipes_highest(name, schedule, highest):
    recipe = Recipe(epochs=10, lr=0.1, schedule=schedule)
    assert recipe.highest_rate == pytest.approx(0.1 * highest)
    method = build(OWN[name], recipe)
    constant = build(OWN[name], Recipe(epochs=10, lr=0.1 * highest))
    own = [epoch for epoch in range(10) if not method.follows_inner(epoch)]
    assert [method.lr(e) for e in own] == pytest.approx([constant.lr(e) for e in own])


def test_a_later_stages_warm_up_leaves_schedules_alone_that_ignore_stages():
    stages = [{"epochs": 5}, {"epochs": 5, "schedule": {"kind": "constant", "warmup": 3}}]
    recipe = Recipe(epochs=10, lr=0.1, schedule={"kind": "stages", "stages": stages})
    plain = Recipe(epochs=10, lr=0.1)
    for make in (partial(SWA, start=9), partial(Snapshot, M=2)):
        method, same = build(make, recipe), build(make, plain)
        assert [method.lr(e) for e in range(10)] == [same.lr(e) for e in range(10)]


@pytest.mark.parametrize("start", [3, 4])
def test_a_rate_that_goes_on_from_the_recipes_is_warmed_up_once(start):
    """Averaging begins within a warm-up of six epochs: its first rate is the recipe's, not that times 5/6 again."""
    recipe = Recipe(epochs=12, lr=1.0, schedule={"kind": "cosine", "warmup": 6})
    method = build(SWA, recipe, start=start, before="recipe", anneal=2)
    assert method.lr(start) == pytest.approx(recipe.learning_rate(start)) == pytest.approx((start + 1) / 6)
    assert method.lr(6) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"before": "recipe", "ratio": None}, "before=recipe is the default of ratio=None"),
        ({"anneal": 3}, "anneal=3 leads from the recipe's rate to a high one"),
        ({"anneal": 3, "before": "recipe", "rate": "cyclic"}, "anneal=3 leads from the recipe's rate to a high one"),
    ],
)
def test_what_has_no_effect_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        build(SWA, Recipe(epochs=5), **given)


@pytest.mark.parametrize(
    ("make", "new"),
    [
        (SGD, [4, 8]),
        (partial(SWA, ratio=None), [4, 8]),
        (SWA, []),
        (partial(SWA, start=6, before="recipe"), [4]),
        (partial(Snapshot, M=2), []),
        (partial(Snapshot, M=2, start=6), [4]),
        (partial(Snapshot, M=2, rate="inner"), [4, 8]),
        (partial(FGE, start=6), [4]),
    ],
)
def test_the_optimizer_is_new_only_where_the_rate_is_that_of_a_stage(make, new, batches):
    stages = [{"epochs": 4}, {"epochs": 4, "ratio": 0.1}, {"epochs": 2}]
    recipe = Recipe(epochs=10, lr=0.05, schedule={"kind": "stages", "stages": stages})
    method = build(make, recipe)
    assert [epoch for epoch in range(10) if method.resets_optimizer(epoch)] == new
    optimizer = make_optimizer(method, recipe)
    cleared = []
    for epoch in range(10):
        before = dict(optimizer.state)
        train_epochs(method, optimizer, batches[:1], first=epoch, last=epoch + 1)
        if before and all(optimizer.state[p] is not state for p, state in before.items()):
            cleared.append(epoch)
    assert cleared == new
