"""Text datasets: files of the user's own, and enwik8."""

from pathlib import Path

import numpy as np

from data.files.archives import unpack
from data.files.download import Checksum, fetch
from data.tasks.text_task import TextTask, make_text_task

ENWIK8_URL = "http://mattmahoney.net/dc/enwik8.zip"


ENWIK8_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"


# Published is the checksum of the unpacked file; this one, of the archive, is what several mirrors and projects state.
ENWIK8_ZIP_SHA256 = "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"


def load_text(
    path: str, root: Path, *, validation: int | None = None, train_size: int | None = None, segment: int | None = None
) -> TextTask:
    """Any file as a text of bytes: the first 90 % to train on, the next 5 % to choose on, the last 5 % to test on.

    Args:
        path: The file.
        root: Not used.
        validation: Take only so many symbols of the part to choose on; None for all of it, 0 for none.
        train_size: Take only so many symbols of the part to train on; None for all of it.
        segment: Symbols through which gradients flow back; None for `SEGMENT`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is shorter than 100 bytes, or a number does not fit it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected a text")
    return make_text_task(f"text:{path}", np.fromfile(file, dtype=np.uint8), validation, train_size, segment)


def load_enwik8(
    path: str, root: Path, *, validation: int | None = None, train_size: int | None = None, segment: int | None = None
) -> TextTask:
    """enwik8: the first 10⁸ bytes of an English Wikipedia, 90 million to train on, twice 5 million to choose and test.

    Args:
        path: Must be empty.
        root: Folder that holds enwik8/enwik8 or enwik8.zip, or gets them by download.
        validation: As for `load_text`.
        train_size: As for `load_text`.
        segment: As for `load_text`.

    Raises:
        FileNotFoundError: If the file is missing and cannot be downloaded.
        ValueError: If it is not the official one, or a number does not fit it.

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
