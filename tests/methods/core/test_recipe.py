"""Schedules against the values that the papers' recipes give, and what a recipe refuses."""

import math

import pytest
import torch
from pydantic import ValidationError

from methods import Recipe
from methods.core.recipe import epoch_at, start_epoch_at


@pytest.mark.parametrize(
    ("schedule", "epochs", "rates"),
    [
        # late-phase paper, appendix A: 0.1 to epoch 100, linearly to 0.001 at 180
        (
            {"kind": "linear", "start": 100, "end": 180, "ratio": 0.01},
            200,
            {0: 0.1, 100: 0.1, 140: 0.0505, 180: 0.001, 199: 0.001},
        ),
        ({"kind": "linear"}, 200, {100: 0.1, 140: 0.0505, 140.9: 0.0505, 180: 0.001}),
        # hypernetwork ensembles: × 0.2 at 60, 120, 160
        ({"kind": "step", "milestones": [60, 120, 160]}, 200, {59: 0.1, 60: 0.02, 120: 0.004, 199: 0.0008}),
        # subspaces: 5 epochs of warm-up, then cosine
        (
            {"kind": "cosine", "warmup": 5},
            160,
            {0: 0.02, 4: 0.1, 5: 0.1, 82.5: 0.05 * (1 + math.cos(math.pi * 77 / 155))},
        ),
        ({"kind": "constant"}, 10, {0: 0.1, 9.99: 0.1}),
        # BatchEnsemble: one epoch in which the rate rises from zero with every minibatch
        (
            {"kind": "step", "milestones": [3], "warmup": 1, "warmup_by": "minibatch"},
            10,
            {0: 0.0, 0.25: 0.025, 0.99: 0.099, 1: 0.1, 3: 0.02},
        ),
        ({"kind": "linear", "start": 5, "end": 5, "ratio": 0.1}, 10, {4.9: 0.1, 5: 0.01, 9: 0.01}),
        ({"kind": "linear", "start": 4, "end": 6, "ratio": 0.5, "warmup": 2}, 10, {0: 0.05, 1: 0.1, 5: 0.075, 6: 0.05}),
    ],
)
def test_schedules(schedule, epochs, rates):
    recipe = Recipe(epochs=epochs, lr=0.1, schedule=schedule)
    for epoch, rate in rates.items():
        assert recipe.learning_rate(epoch) == pytest.approx(rate, rel=1e-4), epoch


def test_a_fraction_is_a_part_of_all_epochs_and_a_whole_number_an_epoch():
    assert [epoch_at(0.6, 200), epoch_at(120, 200), epoch_at(1.0, 50), epoch_at(1, 50)] == [120, 120, 50, 1]
    assert start_epoch_at(0.0, 5) == 0
    assert start_epoch_at(0.95, 5) == 4, "a fraction below 1 leaves an epoch"
    with pytest.raises(ValueError, match=r"start 1\.0 is epoch 5, but training has only epochs 0 to 4"):
        start_epoch_at(1.0, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": float("nan")},
        {"epochs": 0},
        {"momentum": 1},
        {"weight_decay": -1},
        {"colour": "red"},
        {"schedule": {"kind": "linear", "start": 0.9, "end": 0.5}},
        {"schedule": {"kind": "linear", "end": 9}},
        {"schedule": {"kind": "step", "milestones": [6]}},
        {"schedule": {"kind": "cosine", "warmup": 5}},
        {"schedule": {"kind": "linear", "start": 1.5}},
        {"schedule": {"kind": "step", "milestones": [2], "warmup": 5}},
        {"schedule": {"kind": "zigzag"}},
    ],
)
def test_a_recipe_refuses(wrong):
    with pytest.raises(ValidationError):
        Recipe(**{"epochs": 5, **wrong})


def test_label_smoothing_is_the_recipes():
    logits, y = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    p = torch.full((7, 3), 0.3 / 3).scatter_add_(1, y[:, None], torch.full((7, 1), 0.7))
    expected = -(p * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(Recipe(epochs=1, label_smoothing=0.3).criterion(logits, y), expected)


def test_stages_follow_each_other():
    """The rates of the late-phase paper's Table 9: 200 epochs, then 20 more from a tenth of the rate."""
    plain = {"kind": "linear", "start": 100, "end": 180, "ratio": 0.01}
    more = {"epochs": 20, "ratio": 0.1, "schedule": {"kind": "linear", "start": 0, "end": 10, "ratio": 0.1}}
    schedule = {"kind": "stages", "stages": [{"epochs": 200, "schedule": plain}, more]}
    recipe = Recipe(epochs=220, lr=0.1, schedule=schedule)
    first = Recipe(epochs=200, lr=0.1, schedule=plain)
    assert [recipe.learning_rate(e) for e in range(200)] == [first.learning_rate(e) for e in range(200)]
    assert [recipe.learning_rate(e) for e in (200, 205, 210, 219)] == pytest.approx([0.01, 0.0055, 0.001, 0.001])
    assert [epoch for epoch in range(220) if recipe.resets_optimizer(epoch)] == [200]
    assert not any(first.resets_optimizer(epoch) for epoch in range(200))
    assert (
        Recipe(epochs=3, lr=2.0, schedule={"kind": "stages", "stages": [{"epochs": 3, "ratio": 0.5}]}).learning_rate(2)
        == 1.0
    )


def test_a_stage_may_keep_the_optimizer():
    stages = [{"epochs": 2}, {"epochs": 3, "optimizer": "same"}, {"epochs": 1}]
    recipe = Recipe(epochs=6, schedule={"kind": "stages", "stages": stages})
    assert [epoch for epoch in range(6) if recipe.resets_optimizer(epoch)] == [5]


def test_stages_must_fill_training():
    with pytest.raises(ValueError, match="the stages have 3 epochs, training has 4"):
        Recipe(epochs=4, schedule={"kind": "stages", "stages": [{"epochs": 1}, {"epochs": 2}]})
    with pytest.raises(ValueError, match="a warm-up of 2 epochs does not end in 2 epochs"):
        Recipe(
            epochs=2,
            schedule={"kind": "stages", "stages": [{"epochs": 2, "schedule": {"kind": "cosine", "warmup": 2}}]},
        )
