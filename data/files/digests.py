"""SHA-256 of the contents of files. A known digest holds while nothing about its files has changed.

Reading all files takes long; looking at their sizes and times does not. A *fingerprint* stands for the paths, sizes,
inodes and times of all files of a dataset. Whoever keeps digests by fingerprints gets them back without any reading.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

SETTLED_SECONDS = 2.0
"""A file that changed less than so many seconds ago may change again, and its times may stay the same.

File systems keep times in steps of up to two seconds.
"""
VERSION = 1
"""Part of every fingerprint. It is raised when the same files get other digests, so that known ones are forgotten."""
THREADS = 16
"""Threads that look at files or read them: they wait for the disk or a file server most of the time."""
CHUNK = 512
"""Number of files that a thread takes at once."""


class KnownDigests(Protocol):
    """Digests that were computed before, by fingerprint, such as a dict."""

    def get(self, fingerprint: str, /) -> str | None:
        """Return the digest of files with this fingerprint; None if it is not known."""

    def __setitem__(self, fingerprint: str, digest: str, /) -> None:
        """Keep the digest of files with this fingerprint."""


class Fingerprint(NamedTuple):
    """What is known of files without reading them.

    Attributes:
        value: A hash of their paths, sizes, inodes and times. Any change of any file changes it.
        settled: Whether all files are old enough that this can be relied on.
    """

    value: str
    settled: bool


def digest_file(file: Path, known: KnownDigests | None = None) -> str:
    """Return the SHA-256 of a file's contents.

    Args:
        file: The file.
        known: Digests computed before, where this one is looked up and kept; None to read the file in any case.

    Raises:
        OSError: If the file cannot be read.
    """
    path = str(file.absolute())
    return _look_up("file", [path], lambda: _hash_file(path), known)


def digest_files(names: Sequence[bytes], paths: Sequence[str], known: KnownDigests | None = None) -> str:
    """Return the SHA-256 of many files: of the names and the contents of all of them, in their order.

    Args:
        names: Names by which the digest knows the files, so that it does not depend on where they lie.
        paths: The absolute path of each file.
        known: As for `digest_file`.

    Raises:
        OSError: If a file cannot be read.
    """

    def compute() -> str:
        found = hashlib.sha256()
        with ThreadPoolExecutor(THREADS) as pool:
            digests = (digest for part in pool.map(_hash_chunk, _chunks(paths)) for digest in part)
            for name, digest in zip(names, digests, strict=True):
                found.update(b"%b\0%b\n" % (name, digest.encode()))
        return found.hexdigest()

    return _look_up("files", paths, compute, known)


def fingerprint(kind: str, paths: Sequence[str]) -> Fingerprint:
    """Return the fingerprint of files.

    Args:
        kind: What is computed of them. The fingerprints of two kinds always differ.
        paths: The absolute path of each file.

    Raises:
        OSError: If a file is missing.
    """
    began, newest = time.time_ns(), 0
    found = hashlib.sha256(f"{kind} {VERSION}".encode())
    with ThreadPoolExecutor(THREADS) as pool:
        for rows, latest in pool.map(_look_at_chunk, _chunks(paths)):
            found.update(rows)
            newest = max(newest, latest)
    return Fingerprint(found.hexdigest(), newest < began - SETTLED_SECONDS * 1e9)


def _look_up(kind: str, paths: Sequence[str], compute: Callable[[], str], known: KnownDigests | None) -> str:
    """Return a digest: the known one of these files, else the one that is computed now."""
    if known is None:
        return compute()
    found = fingerprint(kind, paths)  # before the files are read: a later change gives them another fingerprint
    digest = known.get(found.value)
    if digest is None:
        digest = compute()
        if found.settled:
            known[found.value] = digest
    return digest


def _chunks(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK))


def _look_at_chunk(paths: Sequence[str]) -> tuple[bytes, int]:
    """Return what the fingerprint holds of some files, and the latest of their times in nanoseconds."""
    rows, newest = [], 0
    for path in paths:
        found = os.stat(path)  # noqa: PTH116 - Path takes twice as long, which shows for 100,000 files
        times = found.st_mtime_ns, found.st_ctime_ns  # the second shows a change under an old time of modification
        rows.append(b"%b\0%d %d %d %d\n" % (os.fsencode(path), found.st_size, *times, found.st_ino))
        newest = max(newest, *times)
    return b"".join(rows), newest


def _hash_chunk(paths: Sequence[str]) -> list[str]:
    return [_hash_file(path) for path in paths]


def _hash_file(path: str) -> str:
    with open(path, "rb") as contents:  # noqa: PTH123 - as above
        return hashlib.file_digest(contents, "sha256").hexdigest()
