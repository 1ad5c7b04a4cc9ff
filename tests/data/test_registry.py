"""`dataset_shape` returns the shapes of loaded datasets, and raises the same errors as `load`."""

import pytest

from data import OOD_DATASETS, STANDARD_OOD_DATASETS, dataset_shape, load
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.ood import OOD_SHAPES


@pytest.mark.parametrize(("validation", "train_size", "train"), [(None, None, 400), (0, None, 600), (100, 50, 50)])
def test_digits(validation, train_size, train):
    found = dataset_shape("digits", validation=validation, train_size=train_size)
    task = load("digits", validation=validation, train_size=train_size)
    assert (
        found
        == (1, 8, 10, train)
        == (task.shape.in_channels, task.shape.image_size, task.classes, len(task.train.labels))
    )


def test_downloaded_sets_are_known_without_files():
    assert dataset_shape("cifar100", validation=5000) == (3, 32, 100, 45_000)
    assert dataset_shape("cifar10", train_size=10_000) == (3, 32, 10, 10_000)
    assert dataset_shape("fashion_mnist") == dataset_shape("mnist") == (1, 28, 10, 60_000)
    assert dataset_shape("tiny_imagenet", validation=10_000) == (3, 64, 200, 90_000)


@pytest.mark.parametrize(
    ("validation", "train_size", "reason"),
    [
        (-1, None, "validation=-1"),
        (50_000, None, "there are 50000"),
        (None, 0, "train_size=0"),
        (None, -5, "train_size=-5"),
        (None, 9, "train_size=9 leaves no image of some of the 10 classes"),
        (5000, 45_001, "there are 45000"),
    ],
)
def test_impossible_numbers_are_refused(validation, train_size, reason):
    with pytest.raises(ValueError, match=reason):
        dataset_shape("cifar10", validation=validation, train_size=train_size)


def test_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        dataset_shape("digit")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"label_noise": -0.1}, "label_noise is the share .*, 0 to 1; got -0.1"),
        ({"label_noise": 1.5}, "got 1.5"),
        ({"label_noise": float("nan")}, "got nan"),
        ({"ood": ["svnh"]}, "cifar10: unknown OOD dataset 'svnh': known are svhn, .*, npz:PATH; did you mean 'svhn'"),
        (
            {"ood": ["svhn", "mnist"]},
            "cifar10: the OOD dataset 'mnist' has images of 1 x 28 x 28, expected 3 x 32 x 32",
        ),
        ({"ood": ["cifar10"]}, "cifar10: unknown OOD dataset 'cifar10': known are svhn, .*, cifar100, mnist"),
        ({"ood": ["svhn", "svhn"]}, r"the OOD dataset 'svhn' is listed twice in ood: \[svhn, svhn\]"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_a_download(options, reason):
    for function in (dataset_shape, load):
        with pytest.raises(ValueError, match=reason):
            function("cifar10", **options)


def test_options_that_fit():
    assert dataset_shape("cifar100", label_noise=0.4, ood=["svhn", "cifar10"]) == (3, 32, 100, 50_000)
    assert dataset_shape("digits", label_noise=1, ood=[]) == (1, 8, 10, 400)


@pytest.mark.parametrize("dataset", DOWNLOADED_SHAPES)
def test_the_standard_ood_datasets_fit(dataset):
    for name in STANDARD_OOD_DATASETS.get(dataset, ()):
        assert OOD_SHAPES[name] == DOWNLOADED_SHAPES[dataset][:2]
    assert OOD_SHAPES.keys() == OOD_DATASETS.keys()
