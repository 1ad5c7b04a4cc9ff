"""Counts how often each run lost its worker process, and decides when the run is retried."""

from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from harness.store.run_folder import RunFolder

MAX_ATTEMPTS = 3
"""A run fails if it loses its worker this often without progress in between."""


@dataclass
class WorkerLosses:
    """How often a run lost its worker without progress.

    Attributes:
        count: number of losses at the same checkpoint.
        checkpoint: mark of the run's checkpoint at the last loss.
    """

    count: int
    checkpoint: int


class RetryQueue:
    """The runs that lost their workers, in the order in which they are retried.

    Each of them is a suspect: it may have killed its worker, and perhaps the machine with all its runs. It stays a
    suspect until it has written a new checkpoint. A suspect is retried only if no other run can start and no other
    suspect runs. A run that kills machines therefore does not take down the same other runs again and again. If the
    machine itself went away, each suspect soon writes a checkpoint and the next one can start.
    """

    def __init__(self, runs: Path) -> None:
        """Start with an empty queue.

        Args:
            runs: the folder of run folders.
        """
        self.runs = runs
        self.suspects: dict[str, WorkerLosses] = {}
        self.waiting: deque[str] = deque()

    def count_loss(self, key: str) -> int:
        """Record that a run lost its worker.

        Returns:
            How often it has lost a worker since its last progress.
        """
        checkpoint = self.checkpoint_mark(key)
        before = self.suspects.get(key)
        count = before.count + 1 if before and before.checkpoint == checkpoint else 1
        self.suspects[key] = WorkerLosses(count, checkpoint)
        return count

    def add(self, key: str) -> None:
        """Add a run to the queue."""
        self.suspects.setdefault(key, WorkerLosses(0, self.checkpoint_mark(key)))
        self.waiting.append(key)

    def take(self, running: Set[str], exclusive: Set[str] = frozenset()) -> str | None:
        """Remove the next run from the queue if it can start now, and return its key.

        Args:
            running: keys of the running runs.
            exclusive: keys of the runs that must run alone.
        """
        for key, losses in list(self.suspects.items()):
            if key in running and self.checkpoint_mark(key) != losses.checkpoint:
                del self.suspects[key]
        if not self.waiting or running & self.suspects.keys():
            return None
        if running and self.waiting[0] in exclusive:
            return None
        return self.waiting.popleft()

    def forget(self, key: str) -> None:
        """Forget a run that has ended."""
        self.suspects.pop(key, None)
        if key in self.waiting:
            self.waiting.remove(key)

    def checkpoint_mark(self, key: str) -> int:
        """Return a number that changes with every checkpoint of a run."""
        return RunFolder(self.runs, key).checkpoint_version()
