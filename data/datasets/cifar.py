"""CIFAR-10 and CIFAR-100, read by torchvision."""

from pathlib import Path
from typing import Any

import torch

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.downloaded import channels_first, check_images, make_split
from data.files.archives import unpack
from data.files.download import Checksum, fetch
from data.files.image_files import Images
from data.tasks.image_dataset import Augmentation, ImageDataset, Split


def load_cifar10(path: str, root: Path) -> ImageDataset:
    """Load CIFAR-10: 50,000 training and 10,000 test images, 32 x 32, colour, 10 classes.

    Args:
        path: Must be empty.
        root: Folder with `cifar-10-batches-py` or `cifar-10-python.tar.gz`; they are downloaded if they are missing.

    Raises:
        FileNotFoundError: If the files are missing and the download fails.
        ValueError: If a file is damaged.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _load("CIFAR10", 10, root)


def load_cifar100(path: str, root: Path) -> ImageDataset:
    """Load CIFAR-100: 50,000 training and 10,000 test images, 32 x 32, colour, 100 classes.

    Args:
        path: Must be empty.
        root: Folder with `cifar-100-python` or `cifar-100-python.tar.gz`; they are downloaded if they are missing.

    Raises:
        FileNotFoundError: If the files are missing and the download fails.
        ValueError: If a file is damaged.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _load("CIFAR100", 100, root)


def load_cifar10_test(root: Path) -> Images:
    """Load CIFAR-10's 10,000 test images, as an OOD dataset: (10000, 3, 32, 32) uint8."""
    return _read("CIFAR10", 10, root, train=False).images


def load_cifar100_test(root: Path) -> Images:
    """Load CIFAR-100's 10,000 test images, as an OOD dataset: (10000, 3, 32, 32) uint8."""
    return _read("CIFAR100", 100, root, train=False).images


def _load(name: str, classes: int, root: Path) -> ImageDataset:
    return ImageDataset(
        classes=classes,
        train=_read(name, classes, root, train=True),
        test=_read(name, classes, root, train=False),
        augmentation=Augmentation(padding=4, flip=True),
        validation=0,
        ood={},
        corruptions=STANDARD_CORRUPTIONS,
    )


def _read(name: str, classes: int, root: Path, *, train: bool) -> Split:
    """Read one split. torchvision verifies the checksum of each file that it reads."""
    from torchvision import datasets

    reader: Any = getattr(datasets, name)
    root = root.expanduser()
    folder = root / reader.base_folder
    if not folder.is_dir():
        archive = fetch(reader.url, root / reader.filename, md5=reader.tgz_md5)
        unpack(archive, folder, part=reader.base_folder)
    try:
        stored = reader(root, train=train, download=False)
    except RuntimeError as error:
        raise ValueError(f"{_damage(reader, folder)}; remove the folder {folder}, and it is made anew") from error
    images = check_images(channels_first(stored.data), str(folder), channels=3, side=32)
    return make_split(images, torch.as_tensor(stored.targets, dtype=torch.int64), classes, str(folder))


def _damage(reader: Any, folder: Path) -> str:
    """Name the file of an unpacked dataset that torchvision rejected, and say why."""
    meta = [reader.meta["filename"], reader.meta["md5"]]
    for name, md5 in [*reader.train_list, *reader.test_list, meta]:
        file, expected = folder / name, Checksum("md5", md5)
        if not file.is_file():
            return f"{file}: missing"
        if not expected.fits(file):
            return f"{file}: found the md5 {expected.of(file)}, expected {md5}"
    return f"{folder}: cannot be read"
