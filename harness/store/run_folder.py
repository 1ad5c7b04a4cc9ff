"""The folder of a run, which is the authoritative record. Files are written to a temporary name, then renamed."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from harness.store.claim import Owner, acquire_claim, check_still_owner, read_claim
from harness.store.damaged_files import (
    EPOCH_PARTS,
    FAILURE_PARTS,
    missing_parts,
    progress_problem,
    read_checked,
    read_json_lines,
    result_problem,
)

DISK_ERROR_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "no space is left for {file}: free some",
    errno.EDQUOT: "the disk quota does not leave space for {file}: free some",
    errno.EROFS: "{file} is on a file system that can only be read: make it writable",
}
"""Disk errors that every run would meet, each with its remedy."""


class RunFolder:
    """The files of one run, `runs/<key>/`.

    spec.json: the spec of the run. source.zip: the files of the plugins that its method comes from. checkpoint.pt: the
    state of training, later the finished state. metrics.jsonl: one line an epoch. progress.json: the progress while a
    process works on the run. system.jsonl: system metrics, if requested. predictions.npz: test probabilities.
    arrays.npz: curves and planes, if the study requests any. failure.json: the reason of a failure. claim.N: the
    process that works on the run (`harness.store.claim`).
    result.json: written last; a run with a result is finished.
    """

    def __init__(self, root: Path, key: str) -> None:
        """Compute the paths. Nothing is created.

        Args:
            root: folder of all runs.
            key: key of the run.
        """
        self.key = key
        self.path = root / key
        self.spec = self.path / "spec.json"
        self.source = self.path / "source.zip"
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
        """Whether result.json exists and is whole."""
        return bool(self.read_result())

    @contextmanager
    def claim(self, driver: str = "") -> Iterator[None]:
        """Hold the claim of the run inside a `with` block.

        Args:
            driver: description of the command that the process works for.

        Raises:
            AlreadyClaimedError: if another process works on the run.
            OSError: if the folder cannot be written.
        """
        claim = acquire_claim(self.path, driver)
        try:
            yield
        finally:
            claim.release()

    def remove_leftovers(self) -> None:
        """Remove what an earlier attempt left behind: its failure.json, and unfinished temporary files."""
        self.failure.unlink(missing_ok=True)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)  # it may belong to another process, which tries to claim the run

    def checkpoint_version(self) -> int:
        """Return a number that changes with every new checkpoint; 0 if there is none."""
        try:
            return self.checkpoint.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def owner(self) -> Owner | None:
        """Return the owner of the run; None if there is none, or if the owner is known to be dead.

        An owner on another machine, or from before a reboot of this machine, is never known to be dead. A
        `harness.store.claim_observer` detects that by missing heartbeats.
        """
        owner = read_claim(self.path).owner
        return None if owner is None or owner.is_dead() else owner

    def is_claimed(self) -> bool:
        """Return whether some process works on the run now."""
        return self.owner() is not None

    def read_result(self) -> dict[str, Any]:
        """Read result.json; {} if there is none, or if it is damaged or another run's, which is said on stderr."""
        return read_checked(self.result, lambda result: result_problem(result, self.key))

    def read_failure(self) -> dict[str, Any]:
        """Read failure.json; {} if there is none, or if it is damaged, which is said on stderr."""
        return read_checked(self.failure, lambda failure: missing_parts(failure, FAILURE_PARTS))

    def read_progress(self) -> dict[str, Any]:
        """Read progress.json; {} if there is none, or if it is damaged, which is said on stderr."""
        return read_checked(self.progress, progress_problem)

    def read_epochs(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl; damaged ones are left out, which is said on stderr."""
        return list(read_json_lines(self.metrics, EPOCH_PARTS))


def write_atomically(path: Path, save: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Replace a file atomically: a reader sees the old or the new content, even if the process is killed meanwhile.

    Args:
        path: the file.
        save: writes the content to an open file.
        durable: wait until the content is on the disk, so that it survives a power failure.

    Raises:
        ClaimLostError: if this process claimed the folder, and another process has taken it over.
        OSError: if the file cannot be written; the error names the file.
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
                os.fsync(folder)  # makes the new name durable, too
            finally:
                os.close(folder)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # the error names no file or the temporary one
        raise
    finally:
        with suppress(OSError):  # renamed, or on a disk that became read-only: `remove_leftovers` removes it later
            temporary.unlink()


def describe_disk_error(error: BaseException | None) -> str:
    """Describe a disk error and its remedy; "" if neither the error nor one of its causes is a disk error."""
    while error:
        if isinstance(error, OSError) and error.errno in DISK_ERROR_REMEDIES:
            return DISK_ERROR_REMEDIES[error.errno].format(file=error.filename or "a file")
        error = error.__cause__
    return ""


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a JSON file atomically.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), durable=durable)


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """Replace a file of JSON lines atomically."""
    text = "".join(json.dumps(value, allow_nan=False) + "\n" for value in values)
    write_atomically(path, lambda file: file.write(text.encode()))


def spec_key(spec: Mapping[str, Any]) -> str:
    """Return the key of a spec: the SHA-256 of its canonical JSON."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
