"""MNIST and the datasets in its format: Fashion-MNIST, Kuzushiji-MNIST and EMNIST's letters.

The archives and their checksums are torchvision's. The files are read directly from the archives, because torchvision
reads unpacked copies without checking them.
"""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.downloaded import check_images, make_split
from data.files.download import fetch
from data.files.image_files import Images
from data.tasks.image_dataset import Augmentation, ImageDataset, Split

SIDE = 28


def load_mnist(path: str, root: Path) -> ImageDataset:
    """Load MNIST: 60,000 training and 10,000 test images, 28 x 28, grey, of handwritten digits.

    Args:
        path: Must be empty.
        root: Folder with the four archives in `MNIST/raw`; they are downloaded if they are missing.

    Raises:
        FileNotFoundError: If a file is missing and the download fails.
        ValueError: If a file is damaged.

    References:
        LeCun et al., Gradient-based learning applied to document recognition, Proceedings of the IEEE, 1998.
    """
    # Deviation: the papers state no augmentation for digits. Ours is small, and does not mirror, because mirrored
    # digits are other signs.
    return _load("MNIST", root, Augmentation(padding=2))


def load_fashion_mnist(path: str, root: Path) -> ImageDataset:
    """Load Fashion-MNIST: 60,000 training and 10,000 test images, 28 x 28, grey, of 10 kinds of clothing.

    Args:
        path: Must be empty.
        root: Folder with the four archives in `FashionMNIST/raw`; they are downloaded if they are missing.

    Raises:
        FileNotFoundError: If a file is missing and the download fails.
        ValueError: If a file is damaged.

    References:
        Xiao, Rasul & Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning, 2017. The
        augmentation is that of Sacramento et al. 2020, appendices B and C.1: CIFAR's.
    """
    return _load("FashionMNIST", root, Augmentation(padding=4, flip=True))


def load_mnist_test(root: Path) -> Images:
    """Load MNIST's 10,000 test images, as an OOD dataset: (10000, 1, 28, 28) uint8."""
    return _read("MNIST", "t10k", root).images


def load_fashion_mnist_test(root: Path) -> Images:
    """Load Fashion-MNIST's 10,000 test images, as an OOD dataset: (10000, 1, 28, 28) uint8."""
    return _read("FashionMNIST", "t10k", root).images


def load_kmnist_test(root: Path) -> Images:
    """Load Kuzushiji-MNIST's 10,000 test images, old Japanese characters: (10000, 1, 28, 28) uint8.

    References:
        Clanuwat et al., Deep learning for classical Japanese literature, 2018.
    """
    return _read("KMNIST", "t10k", root).images


def load_emnist_letters_test(root: Path) -> Tensor:
    """Load the 20,800 test images of EMNIST's handwritten letters: (20800, 1, 28, 28) uint8.

    The images are transposed, because the official files hold transposed images. The results are upright like MNIST's.

    References:
        Cohen et al., EMNIST: extending MNIST to handwritten letters, IJCNN 2017.
    """
    from torchvision.datasets import EMNIST

    archive = fetch(EMNIST.url, root.expanduser() / "EMNIST" / "raw" / "gzip.zip", md5=EMNIST.md5)
    member = "gzip/emnist-letters-test-images-idx3-ubyte.gz"
    where = f"{archive}: {member}"
    try:
        with zipfile.ZipFile(archive) as files:
            packed = files.read(member)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{where}: cannot be read ({error}); remove the archive, and get it again") from error
    images = read_idx(packed, where).transpose(-1, -2)[:, None]
    return check_images(images, where, channels=1, side=SIDE)


def _load(name: str, root: Path, augmentation: Augmentation) -> ImageDataset:
    return ImageDataset(
        classes=10,
        train=_read(name, "train", root),
        test=_read(name, "t10k", root),
        augmentation=augmentation,
        validation=0,
        ood={},
        corruptions=STANDARD_CORRUPTIONS,
    )


def _read(name: str, part: str, root: Path) -> Split:
    """Read one split, "train" or "t10k", of a dataset with four archives."""
    from torchvision import datasets

    reader: Any = getattr(datasets, name)
    folder = root.expanduser() / name / "raw"
    found: dict[str, Tensor] = {}
    for file, md5 in reader.resources:
        if file.startswith(part):
            archive = fetch([f"{mirror}{file}" for mirror in reader.mirrors], folder / file, md5=md5)
            found["images" if "images" in file else "labels"] = read_idx(archive.read_bytes(), str(archive))
    where = f"{folder}: {part}"
    images = check_images(found["images"][:, None], where, channels=1, side=SIDE)
    return make_split(images, found["labels"].long(), 10, where)


def read_idx(packed: bytes, where: str) -> Tensor:
    """Read a gzip-compressed file in MNIST's format.

    Args:
        packed: The file's compressed contents.
        where: The file's name, for messages.

    Returns:
        A uint8 tensor with the shape that the file states.

    Raises:
        ValueError: If the file is truncated or altered, or holds another type than bytes.

    References:
        LeCun, Cortes & Burges, The MNIST database of handwritten digits: two zero bytes, the type (8 for bytes), the
        number of dimensions, each dimension as 4 bytes with the highest first, then the values.
    """
    try:
        contents = gzip.decompress(packed)
        zero, kind, dimensions = struct.unpack_from(">HBB", contents)
        shape = struct.unpack_from(f">{dimensions}I", contents, 4)
        values = np.frombuffer(contents, np.uint8, offset=4 + 4 * dimensions)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{where}: cannot be read ({error}); remove the file, and get it again") from error
    if (zero, kind) != (0, 8) or len(values) != np.prod(shape, dtype=np.int64):
        raise ValueError(
            f"{where}: found type {kind} and {len(values)} values, expected type 8 (bytes) and the shape {shape} that "
            "it states; remove the file, and get it again"
        )
    return torch.from_numpy(values.reshape(shape).copy())
