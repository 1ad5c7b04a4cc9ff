"""Pins the official corrupted files at their first use: later ones must equal them, and blank ones are never used.

Checksums are published of the archives only, not of the files in them. Therefore the SHA-256 of each file is kept in
SHA256SUMS beside the files when they are used for the first time.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.files.decode_image import DecodeJob, decode_image_file
from data.files.download import hold_lock, print_status
from data.files.image_files import ImageFiles

SUMS = "SHA256SUMS"
"""Name of the file with the pinned checksums. `sha256sum -c` reads it, where it names files."""
MOST_BLANK = 0.1
"""Largest share of images without any contrast. Strong corruptions leave a few of them."""
SAMPLED_IMAGES = 20
"""Number of images of a folder that are decoded to see whether they are blank."""


class OfficialPart(NamedTuple):
    """A file of an official set, or a folder with the images of one corruption and severity.

    Attributes:
        name: Its path in the folder of the set.
        remedy: How to get it.
        digest: Returns the SHA-256 of its contents.
        count_blank: Returns for each severity in it the number of blank images, and of all images that were looked at.
    """

    name: str
    remedy: str
    digest: Callable[[], str]
    count_blank: Callable[[], list[tuple[int, int]]]


def pin(folder: Path, parts: Iterable[OfficialPart]) -> str:
    """Check an official set against its pinned checksums, and pin the parts that are used for the first time.

    Args:
        folder: The folder of the set.
        parts: All parts that are used.

    Returns:
        The SHA-256 of all of them.

    Raises:
        ValueError: If a part differs from the pinned one, or is blank.
    """
    sums = folder / SUMS
    pinned, found = read_sums(sums), {}
    parts = list(parts)
    if any(part.name not in pinned for part in parts):
        print_status(f"{folder}: read once from end to end, so that {sums.name} can tell whether a file changes later")
    for part in parts:
        found[part.name] = part.digest()
        if part.name not in pinned:
            check_not_blank(folder / part.name, part)
        elif pinned[part.name] != found[part.name]:
            raise ValueError(
                f"{folder / part.name}: its SHA-256 is {found[part.name]}, not {pinned[part.name]} as at its first "
                f"use; {part.remedy}; if it is right as it is now, remove {sums}"
            )
    if found.keys() - pinned.keys():
        write_sums(sums, found)
    return hashlib.sha256(format_sums(found).encode()).hexdigest()


def check_not_blank(place: Path, part: OfficialPart) -> None:
    """Check that a part has pictures in it.

    Raises:
        ValueError: If too many of its images have the same value in all pixels.
    """
    for blank, count in part.count_blank():
        if blank > MOST_BLANK * count:
            raise ValueError(f"{place}: {blank} of {count} images are blank, all pixels the same; {part.remedy}")


def count_blank_images(images: NDArray[Any]) -> int:
    """Count the images (N, H, W, C) whose pixels are all the same."""
    return int((images == images[:, :1, :1]).all((1, 2, 3)).sum())


def count_blank_files(files: ImageFiles) -> tuple[int, int]:
    """Decode a few images of a folder; return the number of blank ones, and the number of decoded ones.

    Raises:
        ImageError: If one cannot be decoded.
    """
    paths = files.paths()
    sample = paths[:: max(1, len(paths) // SAMPLED_IMAGES)][:SAMPLED_IMAGES]
    job = DecodeJob([], files.side, resized=files.resized)
    decoded = (decode_image_file(Path(path), job, None) for path in sample)
    return sum(count_blank_images(np.asarray(image)[None]) for image in decoded), len(sample)


def read_sums(file: Path) -> dict[str, str]:
    """Read pinned checksums: path → SHA-256; {} if there is no such file.

    Raises:
        ValueError: If a line is damaged.
    """
    found = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines() if file.exists() else (), start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise ValueError(f"{file}: line {number} is not a SHA-256 and a path; correct it, or remove the file")
        found[match[2]] = match[1]
    return found


def write_sums(file: Path, found: dict[str, str]) -> None:
    """Add checksums to a file; if it cannot be written, say so: its folder may be for reading only."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with hold_lock(file, f"writes {file.name}"):
            unfinished.write_text(format_sums(found | read_sums(file)), "utf-8")
            unfinished.replace(file)
    except OSError as error:
        print_status(f"{file}: cannot be written ({error.strerror}); the files are read again each time")


def format_sums(found: dict[str, str]) -> str:
    """Return checksums in the format of `sha256sum`."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))
