"""TinyImageNet-200. Its images are decoded once and cached in one file."""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.downloaded import (
    Array,
    channels_first,
    check_images,
    decode_image_bytes,
    load_or_make_arrays,
    make_split,
)
from data.files.archives import ARCHIVE_ERRORS
from data.files.download import fetch, print_status
from data.tasks.image_dataset import Augmentation, ImageDataset
from data.tasks.split_dataset import stratified_order

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
"""MD5 of the archive. It is not published with the file; many independent programs state the same one."""
SIDE, CLASSES = 64, 200
TRAIN, TEST = 100_000, 10_000

_TOP = "tiny-imagenet-200"
_VERSION = 1  # version of the cached arrays
_ORDER_SEED = 200


def load_tiny_imagenet(path: str, root: Path) -> ImageDataset:
    """Load TinyImageNet: 100,000 training and 10,000 test images, 64 x 64, colour, 200 classes.

    The test set is the official validation set, because the official test set has no labels. Classes are numbered in
    the order of their WordNet names. The training images have a fixed stratified order, so that images held out from
    its end are stratified, too. The images are decoded once and cached in `tiny-imagenet-200.npz` (1.4 GB) beside the
    archive, which is not needed afterwards.

    Args:
        path: Must be empty.
        root: Folder with `tiny-imagenet-200.zip`; it is downloaded if it is missing.

    Raises:
        FileNotFoundError: If the file is missing and the download fails.
        ValueError: If the file is damaged.

    References:
        Le & Yang, Tiny ImageNet visual recognition challenge, 2015. The augmentation is that of Wortsman et al. 2021.
    """
    file = root.expanduser() / f"{_TOP}.npz"
    arrays = load_or_make_arrays(
        file, f"{MD5} {_VERSION}", lambda: _decode(fetch(URL, file.with_suffix(".zip"), md5=MD5))
    )
    splits = {
        part: make_split(
            check_images(channels_first(arrays[f"x_{part}"]), str(file), channels=3, side=SIDE, count=count),
            torch.from_numpy(arrays[f"y_{part}"].astype(np.int64)),
            CLASSES,
            str(file),
        )
        for part, count in (("train", TRAIN), ("test", TEST))
    }
    return ImageDataset(
        classes=CLASSES,
        train=splits["train"],
        test=splits["test"],
        augmentation=Augmentation(padding=4, flip=True),
        validation=0,
        ood={},
        corruptions=STANDARD_CORRUPTIONS,
    )


def _decode(archive: Path) -> dict[str, Array]:
    """Decode all images that have labels."""
    print_status(f"decoding the images of {archive.name}, which is done once and takes a minute or so")
    try:
        with zipfile.ZipFile(archive) as files:
            classes, train = _list_train(files, archive)
            test = _list_test(files, archive, classes)
            order = stratified_order(torch.tensor([label for _, label in train]), _ORDER_SEED).tolist()
            arrays: dict[str, Array] = {}
            for part, listed in (("train", [train[i] for i in order]), ("test", test)):
                images = np.empty((len(listed), SIDE, SIDE, 3), np.uint8)
                for i, (name, _) in enumerate(listed):
                    images[i] = decode_image_bytes(files.read(name), SIDE, f"{archive}: {name}")
                arrays |= {f"x_{part}": images, f"y_{part}": np.array([label for _, label in listed], np.uint8)}
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"{archive}: cannot be read ({error}); remove the file, and get it again") from error
    return arrays


def _list_train(files: zipfile.ZipFile, archive: Path) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Return the number of each class, and the training images with their labels."""
    pattern = re.compile(rf"{_TOP}/train/(\w+)/images/\w+\.JPEG")
    found = [(match[1], match[0]) for name in sorted(files.namelist()) if (match := pattern.fullmatch(name))]
    classes = {name: number for number, name in enumerate(sorted({name for name, _ in found}))}
    if len(classes) != CLASSES or len(found) != TRAIN:
        raise ValueError(
            f"{archive}: found {len(found)} training images of {len(classes)} classes in {_TOP}/train, expected "
            f"{TRAIN} of {CLASSES}; remove the file, and get it again"
        )
    return classes, [(file, classes[name]) for name, file in found]


def _list_test(files: zipfile.ZipFile, archive: Path, classes: dict[str, int]) -> list[tuple[str, int]]:
    """Return the images of the official validation set with their labels."""
    annotations, names = f"{_TOP}/val/val_annotations.txt", set(files.namelist())
    where = f"{archive}: {annotations}"
    if annotations not in names:
        raise ValueError(f"{where}: missing; remove the archive, and get it again")
    listed = []
    for line in files.read(annotations).decode().splitlines():
        file, label, *_ = [*line.split("\t"), ""]
        image = f"{_TOP}/val/images/{file}"
        if label not in classes or image not in names:
            expected = f"an image of val/images and one of the {CLASSES} classes"
            raise ValueError(f"{where}: found {line!r}, expected {expected}; remove the archive, and get it again")
        listed.append((image, classes[label]))
    if len(listed) != TEST:
        raise ValueError(f"{where}: found {len(listed)} lines, expected {TEST}; remove the archive, and get it again")
    return listed
