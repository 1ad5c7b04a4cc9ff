"""A run's folder: the truth about a run. Every file is written to a temporary name, flushed, then renamed."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout


class RunFolder:
    """The files of one run, `runs/<key>/`.

    spec.json: what is run. checkpoint.pt: where training stands, then the finished state. metrics.jsonl: one
    line an epoch. progress.json: how far a running run is. predictions.npz: test probabilities. arrays.npz: curves
    and planes, if the study asks for any. failure.json: why it failed. result.json: written last; a run with one is
    finished.
    """

    def __init__(self, root: Path, key: str) -> None:
        """Name the folder; nothing is created."""
        self.key = key
        self.path = root / key
        self.spec = self.path / "spec.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.progress = self.path / "progress.json"
        self.predictions = self.path / "predictions.npz"
        self.arrays = self.path / "arrays.npz"
        self.failure = self.path / "failure.json"
        self.result = self.path / "result.json"

    @property
    def finished(self) -> bool:
        """Whether the result is there, and whole."""
        return bool(read_json(self.result))

    def lock(self) -> FileLock:
        """Give the lock that whoever works on the run holds; the system frees it when its process ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / "lock")

    @contextmanager
    def claim(self, notice: str) -> Iterator[None]:
        """Work on the run alone; if another process does, say so and wait for it."""
        lock = self.lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(notice, file=sys.stderr)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def sweep(self) -> None:
        """Remove what an earlier try left behind: its failure, and files that a kill cut short."""
        self.failure.unlink(missing_ok=True)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()

    def locked(self) -> bool:
        """Say whether some process works on the run now."""
        if not self.path.exists():
            return False
        try:
            with self.lock().acquire(timeout=0):
                return False
        except Timeout:
            return True

    def read_epochs(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file, {} if there is none, or none that a crash of the disk left whole."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def write(path: Path, save: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, even after a kill in mid-write.

    Args:
        path: the file.
        save: writes the content to an open file.
        durable: wait until the disk has it, so that it survives a power cut too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            save(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the name, too
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a JSON file; NaN is refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write(path, lambda file: file.write(text.encode()), durable=durable)


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Replace a file of JSON lines."""
    text = "".join(json.dumps(value, allow_nan=False) + "\n" for value in values)
    write(path, lambda file: file.write(text.encode()))
