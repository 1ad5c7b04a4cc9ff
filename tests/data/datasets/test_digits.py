import hashlib
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import data
from data import DATASETS, load


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def rows(split):
    return [tuple(image.flatten().tolist()) for image in split.images]


def test_shape_and_scale(digits):
    assert (digits.name, digits.classes, digits.shape.in_channels, digits.shape.image_size) == ("digits", 10, 1, 8)
    assert [len(part.labels) for part in (digits.train, digits.validation, digits.test)] == [400, 200, 1197]
    pixels = torch.cat([part.images.flatten() for part in (digits.train, digits.validation, digits.test)])
    assert sorted(pixels.unique().tolist()) == [round(v * 255 / 16) for v in range(17)]
    assert digits.augmentation == data.Augmentation(padding=1)


def test_the_three_parts_are_all_images_once(digits):
    original = load_digits()
    expected = sorted(
        (tuple(round(v * 255 / 16) for v in image.flatten()), int(label))
        for image, label in zip(original.images, original.target, strict=True)
    )
    found = []
    for part in (digits.train, digits.validation, digits.test):
        found += zip(rows(part), part.labels.tolist(), strict=True)
    assert sorted(found) == expected
    overlap = set(rows(digits.train)) & set(rows(digits.test))
    assert not overlap  # all 1,797 images differ, so this is disjointness


def test_parts_are_stratified(digits):
    share = torch.from_numpy(load_digits().target).bincount() / 1797
    for part in (digits.train, digits.validation, digits.test):
        off = (part.labels.bincount() - share * len(part.labels)).abs().max()
        assert off <= 2


def test_the_split_is_fixed(digits):
    labels = torch.cat([digits.train.labels, digits.validation.labels, digits.test.labels])
    assert hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16] == "e1a9cda56683c62e"
    assert hashlib.sha256(digits.train.images.numpy().tobytes()).hexdigest()[:16] == "b2840a527095f2e0"


def test_statistics_are_those_of_the_training_images(digits):
    x = digits.train.images.double() / 255
    assert digits.mean == pytest.approx([x.mean().item()], abs=1e-12)
    assert digits.std == pytest.approx([x.std(correction=0).item()], abs=1e-12)


def test_photographs(digits):
    patches = digits.ood["photographs"]()
    assert patches.shape == (1197, 1, 8, 8)
    assert patches.dtype == torch.uint8
    assert torch.equal(patches, digits.ood["photographs"]())
    assert patches.float().std() > 50  # sky, roofs, petals
    assert (patches.float().std((1, 2, 3)) > 0).float().mean() > 0.95  # hardly any patch is flat


def test_corrupted_sets(digits):
    sets = list(digits.corrupted(2000))
    assert [(name, severity) for name, severity, *_ in sets] == [
        (name, severity) for name in digits.corruptions for severity in range(1, 6)
    ]
    for (*_, images), (*_, again) in zip(sets, digits.corrupted(2000), strict=True):
        assert images.shape == digits.test.images.shape
        assert images.dtype == torch.uint8
        assert torch.equal(images, again)
        assert not torch.equal(images, digits.test.images)


def test_another_validation_split(digits):
    everything = load("digits", validation=0)
    assert everything.validation is None
    assert len(everything.train.labels) == 600
    assert torch.equal(everything.test.images, digits.test.images)
    assert everything.mean != digits.mean
    assert torch.equal(everything.train.images[:400], digits.train.images)
    smaller = load("digits", validation=100)
    assert (len(smaller.train.labels), len(smaller.validation.labels)) == (500, 100)


def test_train_size(digits):
    for size in (40, 100, 400):
        task = load("digits", train_size=size)
        assert len(task.train.labels) == size
        assert (task.train.labels.bincount(minlength=10) - size / 10).abs().max() <= 2
        assert torch.equal(task.validation.images, digits.validation.images)
        x = task.train.images.double() / 255
        assert task.mean == pytest.approx([x.mean().item()], abs=1e-12)
    assert torch.equal(task.train.images, digits.train.images)
    smaller, larger = load("digits", train_size=60), load("digits", train_size=150)
    assert set(rows(smaller.train)) < set(rows(larger.train))


def test_to_moves_every_split(digits):
    moved = digits.to("meta")
    for part in (moved.train, moved.validation, moved.test):
        assert part.images.device.type == part.labels.device.type == "meta"
    assert moved.mean == digits.mean
    assert load("digits", validation=0).to("meta").validation is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": -1}, "digits: cannot hold out validation=-1 training images; there are 600, so 0 to 599"),
        ({"validation": 600}, "validation=600 training images; there are 600"),
        ({"validation": 599}, "holding out the last 599 of 600 training images leaves none of class"),
        ({"train_size": 0}, "digits: cannot keep train_size=0 training images; .* there are 400, so 1 to 400"),
        ({"train_size": 401}, "train_size=401"),
        ({"train_size": -5}, "train_size=-5"),
    ],
)
def test_wrong_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "digit",
            "unknown dataset 'digit': known are digits, cifar10, .*npz:PATH, .*synthetic:DATASET, .*text:PATH, "
            "synthetic_text:DATASET; did you mean 'digits'",
        ),
        ("letters", "unknown dataset 'letters'"),
        ("", "unknown dataset ''"),
        ("npz", "a path must follow, as in 'npz:PATH'"),
        ("npz:", "a path must follow"),
        ("digits:x", "digits takes no path; write 'digits'"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=message):
        load(name, root=Path("unused"))


def test_registry():
    known = ["digits", "cifar10", "cifar100", "tiny_imagenet", "mnist", "fashion_mnist", "imagenet"]
    assert list(DATASETS) == [*known, "npz", "imagefolder", "synthetic"]
    paths = ["npz:PATH", "imagefolder:PATH", "synthetic:DATASET", "enwik8", "text:PATH", "synthetic_text:DATASET"]
    assert data.dataset_names() == [*known, *paths]
