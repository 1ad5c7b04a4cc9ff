"""Keeps generated corruptions on disk, so that they are made once for all runs on a dataset."""

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from data.corruptions import STANDARD_CORRUPTIONS, corrupt
from data.corruptions.severities import SEVERITIES

LARGEST_BYTES = 2**33
"""Largest size of all corrupted test sets of a dataset together that are kept: those of CIFAR-10 have 2.3 GB."""


class StoredCorruptions:
    """The corrupted test sets of a dataset, in a folder of their own: one file a corruption and severity.

    The folder's name is the hash of the images, of the programs here, and of the kind of device, because rounding may
    differ by one level between kinds. So a file is never stale. Beside each lies the SHA-256 of its contents. A file
    that is missing or damaged is made by whoever needs it first; other processes wait for it.
    """

    def __init__(self, folder: Path, images: Tensor) -> None:
        """Find the folder; nothing is made.

        Args:
            folder: The folder of all such folders.
            images: The test images, (N, C, H, H) uint8.
        """
        content = hashlib.sha256(images.cpu().contiguous().numpy().tobytes())
        content.update(f"{tuple(images.shape)} {images.device.type} {programs()}".encode())
        self.folder, self.images = folder / content.hexdigest()[:32], images
        self.checked: set[Path] = set()

    @staticmethod
    def fits(images: Tensor) -> bool:
        """Return whether the corrupted test sets of these images are small enough to be kept."""
        return images.numel() * len(STANDARD_CORRUPTIONS) * len(SEVERITIES) <= LARGEST_BYTES

    def part(self, name: str, severity: int, start: int, stop: int) -> Tensor:
        """Return some corrupted images, (stop - start, C, H, H) uint8, on the device of the images.

        Args:
            name: The corruption.
            severity: From 1 to 5.
            start: Index of the first image in the test set.
            stop: Index after the last one.
        """
        path = self.folder / f"{name}_{severity}.npy"
        stored = self._read(path)
        if stored is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(path.with_suffix(".lock")):
                    stored = self._read(path)
                    if stored is None:
                        stored = corrupt(self.images, name, severity).cpu().numpy()
                        write(path, stored)
            except OSError as error:
                print(f"generated corruptions are not kept, and made again by each run: {error}", file=sys.stderr)
                return corrupt(self.images[start:stop], name, severity, start=start)
        return torch.from_numpy(np.array(stored[start:stop])).to(self.images.device)

    def _read(self, path: Path) -> np.ndarray | None:
        """Return the images of a file, which stay on disk; None if it is missing or damaged."""
        try:
            stored: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        if stored.shape != tuple(self.images.shape) or stored.dtype != np.uint8:
            return None
        if path not in self.checked and not has_its_digest(path):
            return None
        self.checked.add(path)
        return stored


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_its_digest(path: Path) -> bool:
    """Return whether the contents of a file are those that were written."""
    try:
        return path.with_suffix(".sha256").read_text(encoding="utf-8") == digest_file(path)
    except (OSError, UnicodeDecodeError):
        return False


def write(path: Path, images: np.ndarray) -> None:
    """Write images to a file, which is whole as soon as it has its name, and the digest of its contents beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, images)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".sha256").write_text(digest_file(temporary), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def programs() -> str:
    """Return the hash of the programs that make corruptions."""
    content = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()
