"""Downloaded datasets: their sizes, and functions that decode, check and cache their images."""

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.files.download import hold_lock, print_status
from data.tasks.image_dataset import Split
from data.tasks.task import DatasetShape

Array = NDArray[np.generic]
ImageArray = NDArray[np.uint8]

DOWNLOADED_SHAPES = {
    "cifar10": DatasetShape(3, 32, 10, 50_000),
    "cifar100": DatasetShape(3, 32, 100, 50_000),
    "mnist": DatasetShape(1, 28, 10, 60_000),
    "fashion_mnist": DatasetShape(1, 28, 10, 60_000),
    "tiny_imagenet": DatasetShape(3, 64, 200, 100_000),
    "imagenet": DatasetShape(3, 224, 1000, 1_281_167),
    "enwik8": DatasetShape(None, None, 205, 90_000_000),  # symbols, in the place of examples
}
"""The official sizes of the downloaded datasets. No image is held out by default."""

NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError)
"""Exceptions that NumPy raises for truncated or altered .npz files."""


def decode_image_bytes(contents: bytes, side: int, where: str) -> ImageArray:
    """Decode the bytes of an image file in any usual format. Grey images get three equal channels.

    Args:
        contents: Contents of the file.
        side: Expected height and width, in pixels.
        where: Name of the file and its archive, for messages.

    Returns:
        (side, side, 3) uint8.

    Raises:
        ValueError: If the file cannot be read, or the image has another size.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({error})") from error
    if pixels.shape != (side, side, 3):
        raise ValueError(f"{where}: found {pixels.shape[1]} x {pixels.shape[0]} pixels, expected {side} x {side}")
    return pixels


def channels_first(images: Array) -> Tensor:
    """Return images (N, C, H, W) as a view of (N, H, W) or (N, H, W, C)."""
    tensor = torch.from_numpy(images)
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def check_images(images: Tensor, where: str, *, channels: int, side: int, count: int | None = None) -> Tensor:
    """Return the images if they have the expected number, size and type.

    Args:
        images: Should be (count, channels, side, side) uint8.
        where: Name of their file, for messages.
        channels: Expected channels: 1 for grey, 3 for colour.
        side: Expected height and width, in pixels.
        count: Expected number of images; None for any number but 0.

    Raises:
        ValueError: If they have not; says what was found, what was expected, and what to do.
    """
    right = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1:] == (channels, side, side)
    if not right or not len(images) or count not in (None, len(images)):
        raise ValueError(
            f"{where}: found {images.dtype} {tuple(images.shape)}, expected torch.uint8 "
            f"({'N' if count is None else count}, {channels}, {side}, {side}); remove the file, and get it again"
        )
    return images


def make_split(images: Tensor, labels: Tensor, classes: int, where: str) -> Split:
    """Return the split of some images and their labels.

    Raises:
        ValueError: If their numbers differ, or a label is not a class; names the file.
    """
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if len(labels) != len(images) or low < 0 or high >= classes:
        raise ValueError(
            f"{where}: found {len(labels)} labels from {low} to {high}, expected {len(images)} from 0 to "
            f"{classes - 1}; remove the file, and get it again"
        )
    return Split(images, labels)


def load_or_make_arrays(file: Path, source: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """Return arrays from a cache, a .npz file, which is written if it does not exist.

    A file that has another source or is damaged is written again; each array in it has a checksum. If several processes
    need the file, one of them writes it. If the file cannot be written, the arrays are made at each call, and a message
    says so.

    Args:
        file: The cache. It is always complete.
        source: Identifies the data and the version of `make`.
        make: Makes the arrays.
    """
    if (found := _read(file, source)) is not None:
        return found
    if file.parent.is_dir() and not os.access(file.parent, os.W_OK):
        print_status(f"{file}: its folder cannot be written to; its arrays are made anew each time")
        return make()
    with hold_lock(file, f"makes {file.name}"):
        if (found := _read(file, source)) is not None:
            return found
        made: dict[str, Any] = make()
        unfinished = file.with_name(f".{file.name}.unfinished")
        try:
            with unfinished.open("wb") as out:
                np.savez(out, source=np.array(source), **made)
            unfinished.replace(file)
        except OSError as error:
            print_status(f"{file}: cannot be written ({error.strerror}); its arrays are made anew each time")
        finally:
            unfinished.unlink(missing_ok=True)
        return made


def _read(file: Path, source: str) -> dict[str, Array] | None:
    """Read the cached arrays; return None if the file has none of this source."""
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["source"]) == source:
                return {name: stored[name] for name in stored.files if name != "source"}
        problem = "it has another version"
    except NPZ_ERRORS as error:
        problem = f"it cannot be read: {error}"
    print_status(f"{file}: {problem}; made anew")
    return None
