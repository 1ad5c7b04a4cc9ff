"""Synthetic data in the form of real datasets."""

from pathlib import Path

import pytest
import torch

import data
from data.datasets import cifar, mnist
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.synthetic import load_synthetic


@pytest.mark.parametrize("name", [name for name, shape in DOWNLOADED_SHAPES.items() if shape.image_size])
def test_images_have_the_form_of_the_real_dataset(name):
    task = data.load(f"synthetic:{name}")
    channels, side, classes, _ = DOWNLOADED_SHAPES[name]
    side = {"tiny_imagenet": 16, "imagenet": 32}.get(name, side)
    assert task.shape == (channels, side, classes, 512)
    assert tuple(task.test.images.shape) == (64, channels, side, side) and task.test.images.dtype == torch.uint8
    assert task.test.labels.max() < classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_augmentation_is_that_of_the_real_dataset(name, monkeypatch):
    synthetic = load_synthetic(name, Path())
    for module in (cifar, mnist):
        monkeypatch.setattr(module, "_read", lambda *args, **options: synthetic.train)
    assert synthetic.augmentation == data.DATASETS[name]("", Path()).augmentation
    assert synthetic.augmentation.flip == (name != "mnist")


def test_the_same_name_gives_the_same_images():
    first, again, other = (data.load(f"synthetic:{name}").train.images for name in ("cifar10", "cifar10", "cifar100"))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_classes_can_be_learned():
    """The nearest class mean of the training images classifies over 90 % of the test images correctly."""
    task = data.load("synthetic:cifar10")
    x, y = task.train.images.flatten(1).float(), task.train.labels
    means = torch.stack([x[y == c].mean(0) for c in range(10)])
    nearest = torch.cdist(task.test.images.flatten(1).float(), means).argmin(1)
    assert (nearest == task.test.labels).float().mean() > 0.9


def test_ood_datasets_of_the_real_names():
    task = data.load("synthetic:cifar100", ood=["svhn", "cifar10"])
    svhn, cifar10 = (task.ood[name]() for name in ("svhn", "cifar10"))
    assert svhn.shape == (32, 3, 32, 32) and not torch.equal(svhn, cifar10)
    assert data.load("synthetic:fashion_mnist", ood=["kmnist"]).ood["kmnist"]().shape == (32, 1, 28, 28)


def test_corruptions_are_generated():
    names = {name for name, *_ in data.load("synthetic:cifar10").corrupted(128)}
    assert len(names) == 15


def test_text_has_the_symbols_of_the_real_dataset():
    task = data.load("synthetic_text:enwik8", train_size=5000, segment=50)
    assert task.classes == 205 and len(task.train) == 5000 and task.segment == 50
    followers = {int(b) for a, b in zip(task.train[1000:-1], task.train[1001:], strict=True) if a == task.train[1000]}
    assert 1 <= len(followers) <= 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synthetic:digits", "'synthetic:digits': synthetic images exist in the form of cifar10, cifar100, mnist"),
        ("synthetic:enwik8", "'synthetic:enwik8': synthetic images exist in the form of"),
        ("synthetic_text:cifar10", "'synthetic_text:cifar10': a synthetic text exists in the form of enwik8"),
        ("synthetic", "synthetic images exist in the form of"),
    ],
)
def test_names_without_a_synthetic_form(name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name)


def test_tables_call_them_synthetic():
    from harness.studies.run import DatasetSpec

    assert DatasetSpec(name="synthetic:cifar10", train_size=64).label == "synthetic:cifar10 train=64"


def test_synthetic_data_have_no_digest():
    assert data.digest("synthetic:cifar10") == ""
