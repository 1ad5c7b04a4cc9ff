"""What a rehearsal makes smaller: networks without a width, corruptions along a path, random points, classes."""

from pathlib import Path

import pytest

import data
from harness.expression import parse
from harness.measures import Measures, PathThrough
from harness.scale import TINY, describe, narrow, scaled_measures, scaled_method, scaled_recipe
from methods import METHODS, Recipe


def test_narrow_puts_small_networks_in_the_place_of_large_residual_ones_and_keeps_them_apart():
    names = {"resnet50", "resnet50-conv", "wide_resnet50_2-conv", "tiny_resnet18-conv", "cresnet20", "densenet161"}
    found = narrow(names, 0.1)
    assert found.keys() == names
    assert sorted(found.values()) == [f"wrn-10-{width}" for width in range(1, 7)]


def test_narrow_keeps_a_family_that_has_a_width_and_networks_that_are_small_already():
    assert narrow({"wrn-28-10", "wrn-28-14", "lstm-500", "lenet5"}, 0.1) == {
        "wrn-28-10": "wrn-10-1",
        "wrn-28-14": "wrn-10-2",  # round(1.4) is taken
        "lstm-500": "lstm-50",
        "lenet5": "lenet5",
    }


@pytest.mark.parametrize("width", [None, 1.0, 2.0])
def test_narrow_replaces_nothing_unless_networks_are_to_be_smaller(width):
    assert narrow({"resnet50-conv"}, width) == {"resnet50-conv": "resnet50-conv"}


def test_the_banner_says_that_networks_were_replaced():
    assert "wrn-10s in place of larger residual networks" in describe(TINY)
    assert "wrn-10" not in describe(TINY.model_copy(update={"width": None}))


@pytest.mark.parametrize(("asked", "left"), [((1, 3, 5), (3,)), ((1, 5), (1,))])
def test_one_severity_of_a_path_is_left(asked, left):
    path = PathThrough(points=21, corruptions=("snow", "fog"), severities=asked)
    scaled = scaled_measures(Measures(path=path)).path
    assert scaled == PathThrough(points=5, corruptions=("snow", "fog"), severities=left)


@pytest.mark.parametrize(
    ("written", "small"),
    [
        ("line", "line"),
        ("simplex(m=6, prediction=random)", "simplex(m=6, prediction=random, points=3)"),
        ("swa(checkpoints=6)", "swa(checkpoints=3)"),
    ],
)
def test_points_are_fewer_only_where_they_predict(written, small):
    spec, errors = parse(written, METHODS)
    expected, _ = parse(small, METHODS)
    assert spec and expected and not errors
    scaled = scaled_method(spec, 160, TINY, METHODS)
    assert (scaled.name, dict(scaled.hyperparameters)) == (expected.name, dict(expected.hyperparameters))


@pytest.mark.parametrize(("written", "small"), [(128, 16), (8, 8)])
def test_an_epoch_has_several_minibatches(written, small):
    assert scaled_recipe(Recipe(epochs=4, batch_size=written), 1.0, TINY).batch_size == small


@pytest.mark.parametrize(("name", "occurring"), [("cifar10", 10), ("tiny_imagenet", 16), ("imagenet", 16)])
def test_few_classes_of_made_up_pictures_occur_so_that_a_short_training_finds_some(name, occurring):
    task = data.load(f"made:{name}", root=Path())
    for split in (task.train, task.test):
        assert set(split.labels.tolist()) == set(range(occurring))
