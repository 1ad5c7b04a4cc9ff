"""Tests of what a rehearsal reduces: networks without a width, corruptions along a path, points, classes."""

from pathlib import Path

import pytest

import data
from harness.parsing.method_expression import parse_method
from harness.parsing.yaml_errors import StudyError
from harness.studies import study as studies
from harness.studies.extra_measurements import ExtraMeasurements, FlatnessMeasurement, PathMeasurement, PlaneMeasurement
from harness.studies.rehearsal import rehearse
from harness.studies.run import DatasetSpec
from harness.studies.scale import (
    TINY,
    Scale,
    narrower_names,
    scale_dataset,
    scale_measurements,
    scale_method,
    scale_recipe,
)
from harness.studies.study import load
from methods import METHODS, Recipe


def test_small_networks_replace_large_residual_ones_and_stay_different():
    names = {"resnet50", "resnet50-conv", "wide_resnet50_2-conv", "tiny_resnet18-conv", "cresnet20", "densenet161"}
    found = narrower_names(names, 0.1)
    assert found.keys() == names
    assert sorted(found.values()) == [f"wrn-10-{width}" for width in range(1, 7)]


def test_narrow_keeps_a_family_that_has_a_width_and_networks_that_are_small_already():
    assert narrower_names({"wrn-28-10", "wrn-28-14", "lstm-500", "lenet5"}, 0.1) == {
        "wrn-28-10": "wrn-10-1",
        "wrn-28-14": "wrn-10-2",  # round(1.4) is taken
        "lstm-500": "lstm-50",
        "lenet5": "lenet5",
    }


@pytest.mark.parametrize("width", [None, 1.0])
def test_no_network_is_replaced_unless_the_width_is_reduced(width):
    assert narrower_names({"resnet50-conv", "wrn-28-10"}, width) == {
        "resnet50-conv": "resnet50-conv",
        "wrn-28-10": "wrn-28-10",
    }


def test_narrow_makes_none_wider():
    """If sorted by name, the ResNets would get wrn-10-1, and wrn-10-2 would replace wrn-10-1."""
    names = {"wrn-10-1", "wrn-10-2", "wrn-10-10", "cresnet20", "wrn-10-3"}
    assert narrower_names(names, 0.1) == {
        "wrn-10-1": "wrn-10-1",
        "wrn-10-2": "wrn-10-2",
        "wrn-10-3": "wrn-10-3",
        "wrn-10-10": "wrn-10-4",
        "cresnet20": "wrn-10-5",
    }


@pytest.mark.parametrize(("asked", "left"), [((1, 3, 5), (3,)), ((1, 5), (1,))])
def test_one_severity_of_a_path_is_left(asked, left):
    path = PathMeasurement(points=21, corruptions=("snow", "fog"), severities=asked)
    scaled = scale_measurements(ExtraMeasurements(path=path)).path
    assert scaled == PathMeasurement(points=5, corruptions=("snow", "fog"), severities=left)


def test_what_is_measured_around_networks_is_never_more():
    little = ExtraMeasurements(
        path=PathMeasurement(points=3, severities=(3,)),
        plane=PlaneMeasurement(points=2, examples=8, train_examples=0),
        flatness=FlatnessMeasurement(draws=1, examples=8),
    )
    assert scale_measurements(little) == little
    assert scale_measurements(ExtraMeasurements(flatness=FlatnessMeasurement())).flatness == FlatnessMeasurement(
        draws=2, examples=64
    )


GRID = "datasets: [{}]\narchitectures: [{}]\nseeds: [0]\nrecipe: late-phase/sgd\nmethods: [{}]\n"


@pytest.fixture
def said(tmp_path, monkeypatch):
    """A function that returns the banner of a rehearsal of a small study, and its first run."""
    monkeypatch.setattr(studies, "check_grid", lambda grid, methods, errors: None)

    def banner(scale, dataset="cifar10", network="wrn-28-10", method="sgd", more=""):
        path = tmp_path / "s.yaml"
        path.write_text(GRID.format(dataset, network, method) + more)
        small = rehearse(load(str(path)), scale)
        return small.banner.removeprefix("Rehearsal, not a result: "), small.cells()[0].run

    return banner


def test_the_banner_lists_exactly_what_changed(said):
    asked = Scale(epochs=500, subset=60_000, width=0.1, members=3, seeds=4, data=None)
    banner, run = said(asked)
    assert banner == "networks 0.1 times as wide, wrn-10s in place of larger residual networks."
    assert run.recipe.epochs == 200 and run.dataset.train_size is None
    assert said(asked, network="wrn-10-10")[0] == "networks 0.1 times as wide."
    assert said(asked, network="cresnet20")[0] == "wrn-10s in place of larger residual networks."
    assert said(Scale(epochs=2, width=0.1), network="lenet5")[0] == "at most 2 epochs."
    assert (
        said(Scale(width=0.1, members=2), method="swa(late_phase_bn(K=3))", network="lenet5")[0] == "at most 2 members."
    )
    assert said(Scale(epochs=1, members=20), method="late_phase_bn(K=3)")[0] == "at most 1 epoch."
    assert said(Scale(subset=20, seeds=1))[0] == "at most 20 training examples."
    assert said(Scale(data="made"), dataset="digits, cifar10")[0] == "synthetic data."
    path = "evaluate: {path: true}"
    assert said(Scale(epochs=2), method="line", more=path)[0] == "at most 2 epochs, fewer points around networks."


def test_data_that_need_no_download_stay_and_the_banner_says_so(said):
    banner, run = said(Scale(subset=64), dataset="digits, cifar10")
    assert banner == "at most 64 training examples, all of digits."
    assert (run.dataset.train_size, run.recipe.batch_size) == (None, 128)


@pytest.mark.parametrize(
    "scale",
    [
        Scale(epochs=500),
        Scale(epochs=200),
        Scale(width=1),
        Scale(members=1),
        Scale(seeds=1),
        Scale(subset=50_000),
        Scale(epochs=200, width=1, seeds=7),
    ],
)
def test_a_scale_that_changes_nothing_is_refused(said, scale):
    with pytest.raises(StudyError, match=f"^--scale {scale} changes nothing of study s: nothing of it is larger"):
        said(scale)


def test_a_width_changes_nothing_of_networks_that_have_none(said):
    with pytest.raises(StudyError, match="changes nothing"):
        said(Scale(width=0.1), network="lenet5")
    with pytest.raises(StudyError, match="changes nothing"):
        said(Scale(subset=64, data="made"), dataset="digits")


@pytest.mark.parametrize(
    ("written", "scale", "train", "validation"),
    [
        (DatasetSpec(name="cifar10", train_size=100, validation=50), Scale(subset=200), 100, 50),
        (DatasetSpec(name="cifar10", validation=5000), Scale(subset=64), 64, 64),
        (DatasetSpec(name="cifar10", validation=5000), Scale(data="made"), None, 128),
        (DatasetSpec(name="cifar10", train_size=10_000), Scale(data="made", subset=600), None, None),
        (DatasetSpec(name="cifar10", train_size=300), Scale(data="made", subset=600), 300, None),
        (DatasetSpec(name="enwik8", train_size=90_000, segment=20), Scale(data="made"), None, None),
        (DatasetSpec(name="enwik8", segment=20), Scale(data="made", subset=100), 2000, None),
        (DatasetSpec(name="enwik8", segment=20, validation=9000), Scale(data="made"), None, 3000),
    ],
)
def test_there_is_as_much_data_as_a_rehearsal_takes(written, scale, train, validation):
    small = scale_dataset(written, scale)
    assert (small.train_size, small.validation) == (train, validation)
    if small.name.startswith("synthetic"):
        assert data.load(small.name, **small.options()).shape.train > 0


@pytest.mark.parametrize(
    ("written", "small"),
    [
        ("line", "line"),
        ("simplex(m=6, prediction=random)", "simplex(m=6, prediction=random, points=3)"),
        ("swa(checkpoints=6)", "swa(checkpoints=3)"),
    ],
)
def test_points_are_fewer_only_where_they_predict(written, small):
    spec, errors = parse_method(written, METHODS)
    expected, _ = parse_method(small, METHODS)
    assert spec and expected and not errors
    scaled = scale_method(spec, 160, TINY, METHODS)
    assert (scaled.name, dict(scaled.hyperparameters)) == (expected.name, dict(expected.hyperparameters))


@pytest.mark.parametrize(("written", "small"), [(128, 16), (8, 8)])
def test_an_epoch_has_several_minibatches(written, small):
    assert scale_recipe(Recipe(epochs=4, batch_size=written), 1.0, TINY).batch_size == small


@pytest.mark.parametrize(("name", "occurring"), [("cifar10", 10), ("tiny_imagenet", 16), ("imagenet", 16)])
def test_few_classes_of_synthetic_images_occur_so_that_a_short_training_finds_some(name, occurring):
    task = data.load(f"synthetic:{name}", root=Path())
    for split in (task.train, task.test):
        assert set(split.labels.tolist()) == set(range(occurring))
