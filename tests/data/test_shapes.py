"""Shapes known before a download must be those that loading gives, and refuse what loading refuses."""

import pytest

from data import load, shape


@pytest.mark.parametrize(("validation", "train_size", "train"), [(None, None, 400), (0, None, 600), (100, 50, 50)])
def test_digits(validation, train_size, train):
    found = shape("digits", validation=validation, train_size=train_size)
    task = load("digits", validation=validation, train_size=train_size)
    assert (
        found
        == (1, 8, 10, train)
        == (task.shape.in_channels, task.shape.image_size, task.classes, len(task.train.labels))
    )


def test_downloaded_sets_are_known_without_files():
    assert shape("cifar100", validation=5000) == (3, 32, 100, 45_000)
    assert shape("cifar10", train_size=10_000) == (3, 32, 10, 10_000)
    assert shape("fashion_mnist") == (1, 28, 10, 60_000)


@pytest.mark.parametrize(
    ("validation", "train_size", "reason"),
    [
        (-1, None, "validation=-1"),
        (50_000, None, "there are 50000"),
        (None, 0, "train_size=0"),
        (None, -5, "train_size=-5"),
        (5000, 45_001, "there are 45000"),
    ],
)
def test_impossible_numbers_are_refused(validation, train_size, reason):
    with pytest.raises(ValueError, match=reason):
        shape("cifar10", validation=validation, train_size=train_size)


def test_unknown_name():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        shape("digit")
