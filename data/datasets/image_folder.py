"""Reads the user's own images from one folder per class. The files are listed first and decoded when needed."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch

from data.corruptions import STANDARD_CORRUPTIONS
from data.files.decode_image import DecodeJob, decode_image_file
from data.files.digests import KnownDigests, digest_files
from data.files.image_files import ImageFiles
from data.files.usable_cpus import usable_cpus
from data.tasks.image_dataset import Augmentation, ChannelStatistics, ImageDataset, Split
from data.tasks.split_dataset import stratified_order

IMAGE_EXTENSIONS = {"avif", "bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"}
"""File extensions of images, in lower case. Upper case is accepted, too."""

MEASURED_IMAGES = 2000
"""Number of images from which mean and standard deviation are measured."""

_ORDER_SEED = 1281167
_SHOWN = 10  # largest number of problems in one message


def load_folder(path: str, root: Path, image_size: int = 224) -> ImageDataset:
    """List the images PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg, of any size and any usual format.

    If PATH/test does not exist, PATH/val is used. Both must have the same classes, which are numbered in the order of
    their names. Names that begin with a dot are ignored. All other files in a class folder must have the extension of
    an image. Their contents are checked when they are decoded.

    Training images are cropped at random as for ImageNet, and mirrored. In evaluation, images are cropped at the
    centre. The training set has a fixed stratified order, so that held-out images are stratified, too.

    Images are normalised by the mean and the standard deviation of the first 2,000 images in that order, cropped as in
    evaluation. Both are measured when they are first needed. In 95 of 100 samples they differ by at most 0.007 (mean)
    and 0.004 (standard deviation) from those of all images. This was measured on 50,000 images of TinyImageNet, where
    the means of single images have a standard deviation of 0.14.

    Args:
        path: The folder.
        root: Not used.
        image_size: The height and width of the decoded images, in pixels.

    Raises:
        FileNotFoundError: If a folder is missing.
        ValueError: If a folder has wrong contents; names up to ten problems.
    """
    classes, train, test = _list_parts(path, image_size)
    return ImageDataset(
        classes=len(classes),
        train=in_stratified_order(train),
        test=test,
        augmentation=Augmentation(flip=True),
        validation=0,
        ood={},
        corruptions=STANDARD_CORRUPTIONS,
        statistics=lazy_channel_statistics,
    )


def _list_parts(path: str, image_size: int = 224) -> tuple[list[str], Split, Split]:
    """Return the classes, the training images and the test images of a folder; errors are those of `load_folder`."""
    folder = Path(path).expanduser().absolute()
    test = folder / "test" if (folder / "test").exists() else folder / "val"
    classes = class_names(folder / "train")
    if not test.is_dir():
        raise FileNotFoundError(
            f"{folder}: no folder test or val in it; expected images to test on, as {folder / 'test'}/CLASS/*.jpg"
        )
    train = files_in_class_folders(folder / "train", classes, image_size)
    return classes, train, files_in_class_folders(test, classes, image_size)


def files_in_class_folders(folder: Path, classes: Sequence[str], side: int = 224, *, resized: bool = True) -> Split:
    """List the images FOLDER/CLASS/* of some classes, in the order of classes and names.

    Args:
        folder: Contains one folder for each class and no other folders.
        classes: Names of the classes, by label.
        side: The height and width of the decoded images, in pixels.
        resized: Whether images of any size are cropped and resized; else each image must have that size.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If a class has no images, or there are other classes or other files than images; names up to ten
            problems.
    """
    problems = []
    present = set(class_names(folder))
    problems += [f"class {name}: not among the classes to train on" for name in sorted(present.difference(classes))]
    names: list[bytes] = []
    counts = []
    for name in classes:
        found = _list_images(folder / name, problems) if name in present else []
        if name not in present:
            problems.append(f"class {name}: no folder {folder / name}")
        names += [os.fsencode(f"{name}/{image}") for image in found]
        counts.append(len(found))
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ValueError("\n  ".join([f"{folder}: {len(problems)} problem(s)", *problems[:_SHOWN], *more]))
    labels = torch.from_numpy(np.repeat(np.arange(len(classes)), counts))
    return Split(ImageFiles(folder, np.array(names), side, resized), labels)


def class_names(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in a folder. Names that begin with a dot are ignored.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it contains no folders, or images beside the folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with a folder of images for each class")
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    for entry in entries:
        if not entry.is_dir() and not entry.is_file():
            raise ValueError(f"{entry.path}: a link to what is not there; restore that or remove the link")
        if not entry.is_dir() and _is_image(entry.name):
            raise ValueError(f"{entry.path}: an image of no class; put each image into the folder of its class")
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise ValueError(f"{folder}: no class folders in it; expected {folder}/CLASS/*.jpg")
    return names


def in_stratified_order(split: Split) -> Split:
    """Return the same images in a fixed stratified order."""
    order = stratified_order(split.labels, _ORDER_SEED)
    return Split(split.images[order], split.labels[order])


def lazy_channel_statistics(files: ImageFiles) -> ChannelStatistics:
    """Return mean and standard deviation of the first `MEASURED_IMAGES` images, measured at the first read."""
    measure = cache(lambda: measure_channel_statistics(files[:MEASURED_IMAGES]))
    return _LazyNumbers(lambda: measure().mean), _LazyNumbers(lambda: measure().std)


class MeanAndDeviation(NamedTuple):
    """Mean and standard deviation of each of the three channels, of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def measure_channel_statistics(files: ImageFiles) -> MeanAndDeviation:
    """Measure mean and standard deviation of each channel over images cropped as in evaluation, from exact sums.

    The standard deviation of a constant channel is set to 1, so that the channel can be divided by it.

    Raises:
        ValueError: If a file cannot be decoded.
    """
    job = DecodeJob([], files.side, resized=files.resized)

    def sums(file: str) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        levels = decode_image_file(Path(file), job, None).reshape(-1, 3).astype(np.int64)
        return np.stack([levels.sum(0), (levels**2).sum(0)])

    with ThreadPoolExecutor(usable_cpus().number) as pool:  # Pillow releases the interpreter lock while it decodes
        total, squares = sum(pool.map(sums, files.paths()), np.zeros((2, 3), np.int64)).tolist()
    n = len(files) * files.side**2
    # n² · variance · 255² in integers, so that it is exactly 0 for a constant channel.
    spread = [n * square - level**2 for level, square in zip(total, squares, strict=True)]
    mean = tuple(level / n / 255 for level in total)
    return MeanAndDeviation(mean, tuple(value**0.5 / n / 255 if value else 1.0 for value in spread))


def digest_folder(path: str, known: KnownDigests | None = None) -> str:
    """Return the SHA-256 of the names and contents of all images of a folder.

    Args:
        path: The folder, as for `load_folder`.
        known: Digests computed before; see `data.files.digests`.

    Raises:
        FileNotFoundError: If a folder is missing.
        ValueError: If a folder has wrong contents.
    """
    names: list[bytes] = []
    paths: list[str] = []
    _, *splits = _list_parts(path)
    for part, split in zip((b"train", b"test"), splits, strict=True):
        assert isinstance(split.images, ImageFiles)
        names += [b"%b/%b" % (part, name) for name in split.images.names.tolist()]
        paths += split.images.paths()
    return digest_files(names, paths, known)


class _LazyNumbers(Sequence[float]):
    """A sequence of numbers that are measured when they are first read."""

    def __init__(self, measure: Callable[[], tuple[float, ...]]) -> None:
        self._measure = measure

    def __len__(self) -> int:
        return len(self._measure())

    @overload
    def __getitem__(self, i: int) -> float: ...

    @overload
    def __getitem__(self, i: slice) -> tuple[float, ...]: ...

    def __getitem__(self, i: int | slice) -> float | tuple[float, ...]:
        return self._measure()[i]


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def _list_images(folder: Path, problems: list[str]) -> list[str]:
    """Return the sorted names of the images in a class folder. Problems are appended to `problems`."""
    names = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if not _is_image(entry.name):
            kinds = "a folder" if entry.is_dir() else "a file that is no image by its extension"
            problems.append(f"{entry.path}: {kinds}; move it out of the folder of its class")
        elif entry.is_dir():
            problems.append(f"{entry.path}: a folder; only images belong into the folder of a class")
        elif not entry.is_file():
            problems.append(f"{entry.path}: a link to a file that is not there; restore the file or remove the link")
        else:
            names.append(entry.name)
    if not names:
        problems.append(f"class {folder.name}: no images in {folder}")
    return sorted(names)
