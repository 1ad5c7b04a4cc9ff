"""LSUN and TinyImageNet, resized to CIFAR's size: OOD datasets that several papers use.

The archives were made by Liang et al. and used by Lee et al. No checksums are published with them. The checksums here
are those of the projects pytorch-ood and torch-uncertainty, which agree. The number and the size of the images are
checked as well.

References:
    Liang, Li & Srikant, Enhancing the reliability of out-of-distribution image detection in neural networks, ICLR 2018.
    Lee et al., A simple unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS
    2018.
"""

import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from torch import Tensor

from data.datasets.downloaded import ImageArray, channels_first, check_images, decode_image_bytes
from data.files.archives import ARCHIVE_ERRORS
from data.files.download import fetch

SIDE = 32
COUNT = 10_000
ENDINGS = {".jpg", ".jpeg", ".png"}


class Archive(NamedTuple):
    """Address, file name and MD5 of an archive."""

    url: str
    name: str
    md5: str


LSUN = Archive(
    "https://www.dropbox.com/s/moqh2wh8696c3yl/LSUN_resize.tar.gz?dl=1",
    "LSUN_resize.tar.gz",
    "278b7b31c8cb7e804a1465a8ce03a2dc",
)
TINY_IMAGENET = Archive(
    "https://www.dropbox.com/s/kp3my3412u5k9rl/Imagenet_resize.tar.gz?dl=1",
    "Imagenet_resize.tar.gz",
    "0f9ff11d45babf2eff5fe12281d1ac31",
)


def load_lsun_resize(root: Path) -> Tensor:
    """Load 10,000 scenes of LSUN, resized to 32 x 32: (10000, 3, 32, 32) uint8.

    Args:
        root: Folder with `LSUN_resize.tar.gz`; it is downloaded if it is missing.

    Raises:
        FileNotFoundError: If the file is missing and the download fails.
        ValueError: If the file is damaged.

    References:
        Yu et al., LSUN: construction of a large-scale image dataset using deep learning with humans in the loop, 2015.
    """
    return _read(LSUN, root)


def load_tiny_imagenet_resize(root: Path) -> Tensor:
    """Load 10,000 images of TinyImageNet, resized to 32 x 32: (10000, 3, 32, 32) uint8.

    Args:
        root: Folder with `Imagenet_resize.tar.gz`; it is downloaded if it is missing.

    Raises:
        FileNotFoundError: If the file is missing and the download fails.
        ValueError: If the file is damaged.
    """
    return _read(TINY_IMAGENET, root)


def _read(archive: Archive, root: Path) -> Tensor:
    """Read all images of an archive, in the order of their names."""
    file = fetch(archive.url, root.expanduser() / archive.name, md5=archive.md5)
    images: dict[str, ImageArray] = {}
    try:
        with tarfile.open(file) as packed:
            for member in packed:
                if _is_image(member) and (opened := packed.extractfile(member)):
                    images[member.name] = decode_image_bytes(opened.read(), SIDE, f"{file}: {member.name}")
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"{file}: cannot be read ({error}); remove the file, and get it again") from error
    stacked = np.array([images[name] for name in sorted(images)], np.uint8).reshape(-1, SIDE, SIDE, 3)
    return check_images(channels_first(stacked), str(file), channels=3, side=SIDE, count=COUNT)


def _is_image(member: tarfile.TarInfo) -> bool:
    """Return whether a member is an image. Files that some systems add have names that begin with a dot."""
    path = PurePosixPath(member.name)
    return member.isfile() and path.suffix.lower() in ENDINGS and not path.name.startswith(".")
