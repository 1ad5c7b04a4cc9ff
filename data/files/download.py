"""Downloads of files with checksums. An interrupted download is resumed."""

import hashlib
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

MAX_FAILURES = 3
"""Number of connections in a row that bring no data, after which a download fails."""
RETRY_SECONDS = 1.0
"""Seconds before the second connection. The wait before the third is twice as long."""
TIMEOUT_SECONDS = 30.0
"""Seconds without data after which a connection counts as lost."""
CHUNK = 1 << 20


class DownloadError(FileNotFoundError):
    """A file is missing and could not be downloaded."""


class Checksum(NamedTuple):
    """The expected hash of a file's contents.

    Attributes:
        kind: Name of the hash: "md5" or "sha256".
        value: The hash, in hexadecimal.
    """

    kind: str
    value: str

    def of(self, file: Path) -> str:
        """Return the hash of a file."""
        with file.open("rb") as contents:
            return hashlib.file_digest(contents, lambda: hashlib.new(self.kind, usedforsecurity=False)).hexdigest()

    def fits(self, file: Path) -> bool:
        """Return whether the file exists and has the expected hash."""
        return file.is_file() and self.of(file) == self.value


def fetch(urls: str | Sequence[str], file: Path, *, md5: str = "", sha256: str = "") -> Path:
    """Download a file unless it exists already, check its checksum, and return its path.

    The download is written to `FILE.part` and renamed when it is complete and its checksum is right. A file of the
    final name is therefore never truncated. An interrupted download is resumed by the next call if the server supports
    that. Contents with a wrong checksum, downloaded or found, are moved to `FILE.bad`. If several processes ask for the
    same file, one of them downloads it. A file that exists and has the right checksum is only read, so that its folder
    may be read-only.

    Args:
        urls: Addresses of the file. The first one that sends the right contents is used.
        file: Path of the file. Its folder is created.
        md5: The expected MD5, in hexadecimal.
        sha256: The expected SHA-256, in place of the MD5.

    Returns:
        The file.

    Raises:
        ValueError: If not exactly one checksum is given.
        DownloadError: If the file cannot be had, with the reason for each address and what to do.
    """
    if bool(md5) == bool(sha256):
        raise ValueError(f"{file.name}: give one checksum, md5 or sha256")
    checksum = Checksum("md5", md5) if md5 else Checksum("sha256", sha256)
    file = file.expanduser()
    if checksum.fits(file):
        return file
    try:
        with hold_lock(file, f"downloads {file.name}"):
            return file if checksum.fits(file) else _download([urls] if isinstance(urls, str) else urls, file, checksum)
    except DownloadError:
        raise
    except OSError as error:
        found = f"its {checksum.kind} is wrong" if file.is_file() else "it is not there"
        raise DownloadError(
            f"{file.absolute()}: {found}, and it cannot be downloaded, because the folder cannot be written to "
            f"({error.strerror or error}); {_manual_instructions(urls, file, checksum)}"
        ) from error


@contextmanager
def hold_lock(file: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a file or folder, so that only one process creates it.

    Args:
        file: The file or folder. The folder that contains it is created.
        doing: What this process does while it holds the lock. Processes that wait print it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.parent / f".{file.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print_status(f"waiting for another process that {doing}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def print_status(line: str) -> None:
    """Print a line to standard error. Progress bars on the screen are not broken."""
    print(line, file=sys.stderr, flush=True)


def _download(urls: Sequence[str], file: Path, checksum: Checksum) -> Path:
    """Download a file from the first address that sends the right contents."""
    bad, problems = file.with_name(f"{file.name}.bad"), []
    if file.exists():
        found = f"what was there had the {checksum.kind} {checksum.of(file)}, expected {checksum.value}"
        problems.append(f"{found}; put aside as {bad.name}")
        file.replace(bad)
        print_status(f"{file}: {problems[0]}; downloading it anew")
    part = file.with_name(f"{file.name}.part")
    for url in urls:
        while True:
            resumed = part.exists() and part.stat().st_size > 0
            try:
                with part.open("ab", buffering=0) as out:
                    _download_with_retries(url, out, file.name)
            except DownloadError:
                raise  # writing failed: another address would not help
            except (OSError, HTTPException) as error:
                problems.append(f"{url}: {error}")
                break
            found = checksum.of(part)
            if found == checksum.value:
                part.replace(file)
                return file
            part.replace(bad)
            if not resumed:
                problems.append(f"{url}: {checksum.kind} {found}, expected {checksum.value}; put aside as {bad.name}")
                break
            # The part that existed before may be of another file: download again from the start.
    if part.exists() and not part.stat().st_size:
        part.unlink()
    again = "try again, which goes on where it stopped, or " if part.exists() else ""
    raise DownloadError(
        f"{file.absolute()}: not there, and downloading it failed ({'; '.join(problems)}); "
        f"{again}{_manual_instructions(urls, file, checksum)}"
    )


def _manual_instructions(urls: str | Sequence[str], file: Path, checksum: Checksum) -> str:
    """Say how to provide the file by hand."""
    source = urls if isinstance(urls, str) else urls[0]
    return f"put {file.name} ({checksum.kind} {checksum.value}) there by hand, from {source}"


def _download_with_retries(url: str, out: BinaryIO, name: str) -> None:
    """Append the missing bytes to a file, over as many connections as are needed."""
    failures = 0
    while True:
        have = _size(out)
        try:
            if _append_response(url, out, name):
                return
            problem: Exception = ConnectionError("the connection was closed before the end")
        except DownloadError:
            raise
        except HTTPError as error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                return  # the server has no more bytes: the checksum decides
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            problem = error
        except (OSError, HTTPException) as error:
            problem = error
        failures = 0 if _size(out) > have else failures + 1
        if failures == MAX_FAILURES:
            raise problem
        time.sleep(failures * RETRY_SECONDS)


def _append_response(url: str, out: BinaryIO, name: str) -> bool:
    """Append the bytes of one connection to a file, and return whether the file is complete."""
    have = _size(out)
    wanted = {"Range": f"bytes={have}-"} if have else {}
    agent = {"User-Agent": "economical-ensembles", "Accept-Encoding": "identity"}
    with urlopen(Request(url, headers=agent | wanted), timeout=TIMEOUT_SECONDS) as response:
        sent = re.match(r"bytes (\d+)-", response.headers["Content-Range"] or "")
        if have and not (response.status == HTTPStatus.PARTIAL_CONTENT and sent and int(sent[1]) == have):
            out.truncate(0)  # the server sends the file from its beginning
            have = 0
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                return False
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        with _progress(name, url, have, total) as advance:
            while chunk := response.read(CHUNK):
                _write(out, chunk)
                advance(len(chunk))
    _write(out, b"")
    return total is None or _size(out) == total


def _size(out: BinaryIO) -> int:
    return os.fstat(out.fileno()).st_size


def _write(out: BinaryIO, chunk: bytes) -> None:
    """Append bytes to a file. An empty chunk waits until all bytes are on the disk."""
    left = memoryview(chunk)
    try:
        while left:
            left = left[out.write(left) :]
        if not chunk:
            os.fsync(out.fileno())
    except OSError as error:
        raise DownloadError(
            f"{out.name}: cannot be written beyond its {_size(out)} bytes ({error.strerror}); they are kept: make room "
            "and start again, and the download goes on from there"
        ) from error


@contextmanager
def _progress(name: str, url: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress of a download: a bar on a terminal, else one line.

    A worker process, and a process that already shows bars, print one line.
    """
    in_worker = multiprocessing.parent_process() is not None
    if in_worker or not sys.stderr.isatty() or hasattr(sys.stderr, "rich_proxied_file"):
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        print_status(f"downloading {name}{size} from {url}" + (f", from byte {have} on" if have else ""))
        yield lambda n: None
        return
    from rich.console import Console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=total, completed=have)
        yield lambda n: bars.advance(task, n)
