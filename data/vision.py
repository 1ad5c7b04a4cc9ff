"""CIFAR-10, CIFAR-100 and Fashion-MNIST, downloaded and checked by torchvision."""

from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from data.corruptions import CORRUPTIONS
from data.source import Augmentation, Source, Split

# What torchvision raises for missing, damaged or unreachable files.
_FAILURES = (RuntimeError, OSError, EOFError, ValueError, AssertionError)


class _Reader(Protocol):
    """A torchvision dataset class: what it needs to be constructed."""

    __name__: str

    def __call__(self, root: Path, *, train: bool, download: bool) -> Any: ...


def load_cifar10(path: str, root: Path) -> Source:
    """CIFAR-10: 50,000 training and 10,000 test images, 32 x 32, colour, of 10 kinds of things.

    The companion is CIFAR-100's test set.

    Args:
        path: Must be empty.
        root: Folder that holds `cifar-10-batches-py`, or gets it by download.

    Raises:
        FileNotFoundError: If the files are missing or damaged and the download fails.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _cifar("cifar10", 10, "cifar100", root)


def load_cifar100(path: str, root: Path) -> Source:
    """CIFAR-100: 50,000 training and 10,000 test images, 32 x 32, colour, of 100 kinds of things.

    The companion is CIFAR-10's test set.

    Args:
        path: Must be empty.
        root: Folder that holds `cifar-100-python`, or gets it by download.

    Raises:
        FileNotFoundError: If the files are missing or damaged and the download fails.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _cifar("cifar100", 100, "cifar10", root)


def load_fashion_mnist(path: str, root: Path) -> Source:
    """Fashion-MNIST: 60,000 training and 10,000 test images, 28 x 28, grey, of 10 kinds of clothing.

    Args:
        path: Must be empty.
        root: Folder that holds `FashionMNIST/raw`, or gets it by download.

    Raises:
        FileNotFoundError: If the files are missing or damaged and the download fails.

    References:
        Xiao, Rasul & Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning, 2017.
    """
    return Source(
        classes=10,
        train=_read("fashion_mnist", root, train=True),
        test=_read("fashion_mnist", root, train=False),
        # Deviation: the papers do not state an augmentation for this set; these two are our choice.
        augmentation=Augmentation(padding=2, flip=True),
        validation=0,
        ood={},
        corruptions=tuple(name for name in CORRUPTIONS if name != "saturate"),
    )


def load_test_images(name: str, root: Path) -> Tensor:
    """The test images of one of these datasets, as a companion of another: (M, C, H, W) uint8."""
    return _read(name, root, train=False).images


def _cifar(name: str, classes: int, companion: str, root: Path) -> Source:
    """One of the two CIFAR sets, with the other one's test images as its companion."""
    return Source(
        classes=classes,
        train=_read(name, root, train=True),
        test=_read(name, root, train=False),
        augmentation=Augmentation(padding=4, flip=True),
        validation=0,
        ood={companion: partial(load_test_images, companion, root)},
        corruptions=tuple(CORRUPTIONS),
    )


def _reader(name: str) -> tuple[_Reader, str]:
    """The torchvision class of a dataset, and what a user who cannot download it puts into the folder."""
    from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

    if name == "fashion_mnist":
        files = ", ".join(file for file, _ in FashionMNIST.resources)
        return FashionMNIST, f"{files} (from {FashionMNIST.mirrors[0]}) in its subfolder FashionMNIST/raw"
    cifar = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    return cifar, f"{cifar.filename} (from {cifar.url}), packed or unpacked"


def _read(name: str, root: Path, *, train: bool) -> Split:
    """One split of a dataset, downloaded if it is not there yet."""
    reader, by_hand = _reader(name)
    root = root.expanduser()
    try:
        try:
            stored = reader(root, train=train, download=False)  # works in a folder that cannot be written to
        except _FAILURES:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # several workers may start at once
                stored = reader(root, train=train, download=True)
    except _FAILURES as error:
        raise FileNotFoundError(
            f"dataset {name}: not found in the folder {root.resolve()}, and downloading it failed ({error}). "
            f"To provide it by hand, put there: {by_hand}"
        ) from error
    images = torch.from_numpy(np.asarray(stored.data))
    # (N, H, W, C) or (N, H, W) -> (N, C, H, W), a view
    images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
    return Split(images, torch.as_tensor(stored.targets, dtype=torch.int64))
