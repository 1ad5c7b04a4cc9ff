"""A run's folder: the truth about a run. Every file is written to a temporary name, flushed, then renamed."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from harness.store.claim import Owner, acquire_claim, check_still_owner, read_claim

DISK_ERROR_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "no space is left for {file}: free some",
    errno.EDQUOT: "the disk quota does not leave space for {file}: free some",
    errno.EROFS: "{file} is on a file system that can only be read: make it writable",
}
"""Troubles of a disk, which every run would meet, and what to do about them."""


class RunFolder:
    """The files of one run, `runs/<key>/`.

    spec.json: what is run. checkpoint.pt: where training stands, then the finished state. metrics.jsonl: one
    line an epoch. progress.json: how far a running run is. system.jsonl: system metrics, if they were asked for.
    predictions.npz: test probabilities. arrays.npz: curves and planes, if the study asks for any. failure.json: why it
    failed. claim.N: who works on it (`harness.store.claim`). result.json: written last; a run with one is finished.
    """

    def __init__(self, root: Path, key: str) -> None:
        """Name the folder; nothing is created."""
        self.key = key
        self.path = root / key
        self.spec = self.path / "spec.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.progress = self.path / "progress.json"
        self.system = self.path / "system.jsonl"
        self.predictions = self.path / "predictions.npz"
        self.arrays = self.path / "arrays.npz"
        self.failure = self.path / "failure.json"
        self.result = self.path / "result.json"

    @property
    def finished(self) -> bool:
        """Whether the result is there, and whole."""
        return bool(read_json(self.result))

    @contextmanager
    def claim(self, driver: str = "") -> Iterator[None]:
        """Work on the run alone.

        Args:
            driver: for whom, in words.

        Raises:
            TakenError: if another process does.
            OSError: if the folder cannot be written.
        """
        claim = acquire_claim(self.path, driver)
        try:
            yield
        finally:
            claim.release()

    def remove_leftovers(self) -> None:
        """Remove what an earlier try left behind: its failure, and files that a kill cut short."""
        self.failure.unlink(missing_ok=True)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)  # one of another process that tries to claim the run

    def checkpoint_version(self) -> int:
        """Tell this run's checkpoints from one another; 0 if there is none."""
        try:
            return self.checkpoint.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def owner(self) -> Owner | None:
        """Name the process that works on the run, None if there is none, or only one that is known to be dead.

        One of another machine, or of this one before it was started again, cannot be known to be dead; whoever looks
        for long enough can tell (`harness.store.claim`).
        """
        owner = read_claim(self.path).owner
        return None if owner is None or owner.is_dead() else owner

    def is_claimed(self) -> bool:
        """Say whether some process works on the run now."""
        return self.owner() is not None

    def read_epochs(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file, {} if there is none, or none that a crash of the disk left whole."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def write_atomically(path: Path, save: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, even after a kill in mid-write.

    Args:
        path: the file.
        save: writes the content to an open file.
        durable: wait until the disk has it, so that it survives a power cut too.

    Raises:
        LostError: if the folder was claimed by this process, and another one has taken it over.
        OSError: that names the file, if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            save(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        check_still_owner(path.parent)
        temporary.replace(path)
        if durable and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the name, too
            finally:
                os.close(folder)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # a full disk names no file, others the temporary one
        raise
    finally:
        with suppress(OSError):  # gone, or on a disk that has become read-only: `sweep` removes it
            temporary.unlink()


def describe_disk_error(error: BaseException | None) -> str:
    """Say what is wrong with the disk and what to do, "" if neither an error nor what caused it says such a thing."""
    while error:
        if isinstance(error, OSError) and error.errno in DISK_ERROR_REMEDIES:
            return DISK_ERROR_REMEDIES[error.errno].format(file=error.filename or "a file")
        error = error.__cause__
    return ""


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a JSON file; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), durable=durable)


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Replace a file of JSON lines."""
    text = "".join(json.dumps(value, allow_nan=False) + "\n" for value in values)
    write_atomically(path, lambda file: file.write(text.encode()))


def spec_key(spec: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a spec's canonical JSON."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
