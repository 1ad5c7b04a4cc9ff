"""ImageNet (ILSVRC 2012), read from its unpacked official archives."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.image_folder import class_names, files_in_class_folders, in_stratified_order
from data.files.image_files import ImageFiles
from data.tasks.image_dataset import Augmentation, ImageDataset, Split

SIDE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Channel statistics with which torchvision's published weights were trained (`torchvision.transforms._presets`)."""


class ImageCounts(NamedTuple):
    """Numbers of classes and images.

    Attributes:
        classes: Number of classes.
        train: Number of training images.
        least: Number of training images of the smallest class.
        test: Number of images of each class in the official validation set, which is the test set here.
    """

    classes: int
    train: int
    least: int
    test: int


OFFICIAL = ImageCounts(classes=1000, train=1_281_167, least=732, test=50)
"""Numbers of the official archives (Russakovsky et al., Table 2)."""

INSTRUCTIONS = """ImageNet's licence forbids to download it for you. With an account of https://image-net.org get
  ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, and put them into {folder}; there:
    mkdir -p train val && tar -xf ILSVRC2012_img_train.tar -C train && tar -xf ILSVRC2012_img_val.tar -C val
    for f in train/*.tar; do mkdir "${{f%.tar}}" && tar -xf "$f" -C "${{f%.tar}}" && rm "$f"; done
  The development kit stays packed. It is not needed where the images of val lie in folders of their classes."""


def load_imagenet(path: str, root: Path) -> ImageDataset:
    """List the images of ImageNet: 1,281,167 training images of 1,000 classes, and 50,000 test images.

    The test set is the official validation set. The files are `imagenet/train/WNID/*.JPEG` and
    `imagenet/val/WNID/*.JPEG`. With the official development kit beside them, `imagenet/val/*.JPEG` also works. Labels
    number the classes in the order of their WordNet ids, as published weights expect. Images are cropped to 224 × 224
    pixels; see `data.files.decode_image`.

    Args:
        path: Must be empty.
        root: Folder with `imagenet`. Nothing is written there.

    Raises:
        FileNotFoundError: If a folder or the development kit is missing.
        ValueError: If a folder has wrong contents or too few images; says what to do.

    References:
        Russakovsky et al., ImageNet large scale visual recognition challenge, IJCV 2015.
    """
    folder = root.expanduser() / "imagenet"
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise FileNotFoundError(
            f"dataset imagenet: no folders train and val in {folder.resolve()}. {INSTRUCTIONS.format(folder=folder)}"
        )
    try:
        wnids = class_names(folder / "train")
        train = files_in_class_folders(folder / "train", wnids, SIDE)
        _check_train(folder / "train", train, wnids)
        test = _list_test_images(folder, wnids)
        _check_test(folder / "val", test, wnids)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"dataset imagenet: {error}\n{INSTRUCTIONS.format(folder=folder)}") from error
    return ImageDataset(
        classes=len(wnids),
        train=in_stratified_order(train),
        test=test,
        augmentation=Augmentation(flip=True),
        validation=0,
        ood={},
        corruptions=STANDARD_CORRUPTIONS,
        statistics=lambda files: (MEAN, STD),
    )


def _list_test_images(folder: Path, wnids: Sequence[str]) -> Split:
    """List the validation set: from class folders, or from one folder with labels from the development kit."""
    val = folder / "val"
    images = sorted(entry.name for entry in val.iterdir() if entry.suffix == ".JPEG")
    if not images:
        return files_in_class_folders(val, wnids, SIDE)
    truth = _read_validation_wnids(folder)
    if len(truth) != len(images):
        raise ValueError(f"{val}: found {len(images)} images, expected {len(truth)}, as the kit has labels")
    label = {wnid: i for i, wnid in enumerate(wnids)}
    unknown = sorted(set(truth).difference(label))
    if unknown:
        raise ValueError(f"{folder / 'train'}: no folder of class {', '.join(unknown[:10])}, which val has images of")
    labels = torch.tensor([label[wnid] for wnid in truth])
    return Split(ImageFiles(val, np.array([name.encode() for name in images]), SIDE), labels)


def _read_validation_wnids(folder: Path) -> list[str]:
    """Read the class of each validation image from the development kit, in the order of the images' names.

    torchvision reads the kit. It also writes a file beside the kit. The kit is linked into a temporary folder, so that
    its own folder may be read-only.
    """
    from torchvision.datasets import imagenet

    kit = imagenet.ARCHIVE_META["devkit"][0]
    if not (folder / kit).is_file():
        raise FileNotFoundError(
            f"{folder / kit}: no such file; the images of {folder / 'val'} lie in no class folders, so it is needed"
        )
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / kit).symlink_to((folder / kit).resolve())
        try:
            imagenet.parse_devkit_archive(scratch)
            wnids: list[str] = imagenet.load_meta_file(scratch)[1]
        except (RuntimeError, OSError, EOFError) as error:
            raise ValueError(f"{folder / kit}: damaged, or not the official file; get it again ({error})") from error
    return wnids


def _check_train(folder: Path, train: Split, wnids: Sequence[str]) -> None:
    """Check that the training set is complete."""
    if len(wnids) != OFFICIAL.classes:
        raise ValueError(f"{folder}: found {len(wnids)} class folders, expected {OFFICIAL.classes}")
    if len(train.labels) != OFFICIAL.train:
        found = _count_by_class(train, wnids)
        few = {wnid: n for wnid, n in found.items() if n < OFFICIAL.least}
        few = few or {wnid: n for wnid, n in found.items() if n == min(found.values())}
        raise ValueError(
            f"{folder}: found {len(train.labels)} images, expected {OFFICIAL.train}; every class has at least "
            f"{OFFICIAL.least}, but here {_first_ten(few)}"
        )


def _check_test(folder: Path, test: Split, wnids: Sequence[str]) -> None:
    """Check that the validation set is complete."""
    wrong = {wnid: n for wnid, n in _count_by_class(test, wnids).items() if n != OFFICIAL.test}
    if wrong:
        raise ValueError(f"{folder}: every class has {OFFICIAL.test} images, but here {_first_ten(wrong)}")


def _count_by_class(split: Split, wnids: Sequence[str]) -> dict[str, int]:
    """Return the number of images of each class."""
    return dict(zip(wnids, split.labels.bincount(minlength=len(wnids)).tolist(), strict=True))


def _first_ten(counts: Mapping[str, int]) -> str:
    """Write the first ten classes with their numbers of images."""
    shown = [f"{wnid} has {n}" for wnid, n in list(counts.items())[:10]]
    return ", ".join(shown) + (f" and {len(counts) - 10} more" if len(counts) > 10 else "")
