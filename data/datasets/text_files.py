"""Text datasets: enwik8 and the user's own files."""

from pathlib import Path

import numpy as np

from data.files.archives import unpack
from data.files.download import Checksum, fetch
from data.tasks.text_task import TextTask, make_text_task

ENWIK8_URL = "http://mattmahoney.net/dc/enwik8.zip"
ENWIK8_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"
# Only the checksum of the unpacked file is published. Several mirrors and projects state this one of the archive.
ENWIK8_ZIP_SHA256 = "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"


def load_text(
    path: str, root: Path, *, validation: int | None = None, train_size: int | None = None, segment: int | None = None
) -> TextTask:
    """Load any file as a text of bytes: the first 90 % for training, 5 % for validation, the last 5 % for testing.

    Args:
        path: The file.
        root: Not used.
        validation: Number of symbols used of the validation part; None for all, 0 for none.
        train_size: Number of symbols used of the training part; None for all.
        segment: Number of symbols through which gradients flow back; None for `SEGMENT`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is shorter than 100 bytes, or a number does not fit it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected a text")
    return make_text_task(f"text:{path}", np.fromfile(file, dtype=np.uint8), validation, train_size, segment)


def load_enwik8(
    path: str, root: Path, *, validation: int | None = None, train_size: int | None = None, segment: int | None = None
) -> TextTask:
    """Load enwik8, the first 10⁸ bytes of an English Wikipedia.

    90 million bytes are for training, 5 million for validation and 5 million for testing.

    Args:
        path: Must be empty.
        root: Folder with enwik8/enwik8 or enwik8.zip; they are downloaded if they are missing.
        validation: As for `load_text`.
        train_size: As for `load_text`.
        segment: As for `load_text`.

    Raises:
        FileNotFoundError: If the file is missing and cannot be downloaded.
        ValueError: If it is not the official file, or a number does not fit it.

    References:
        Mahoney, About the test data (of the large text compression benchmark), 2011, for sizes and checksum.
    """
    file = root.expanduser() / "enwik8" / "enwik8"
    if not file.exists():
        unpack(fetch(ENWIK8_URL, root / "enwik8.zip", sha256=ENWIK8_ZIP_SHA256), file.parent)
    if not Checksum("md5", ENWIK8_MD5).fits(file):
        raise ValueError(
            f"{file}: found {file.stat().st_size:,} bytes that are not enwik8's 100,000,000 (md5 {ENWIK8_MD5}); remove "
            f"the folder {file.parent}, and start again"
        )
    return make_text_task("enwik8", np.fromfile(file, dtype=np.uint8), validation, train_size, segment)
