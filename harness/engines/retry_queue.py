"""Runs that lost their worker: how often, and when they are tried again."""

from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from harness.store.run_folder import RunFolder

TRIES = 3
"""How often a run may lose its worker without getting further before it counts as failed."""


@dataclass
class Loss:
    """How often a run lost its worker without getting further in between, and the checkpoint that it had then."""

    times: int
    mark: int


class Losses:
    """Suspects: each may be what killed its worker, and perhaps the machine with all that ran there.

    A suspect waits until no other run can start, and is one until its checkpoint is another one than when it lost its
    worker. No two are tried at the same time. So a run that kills machines does not take the same others with it again
    and again; and of the runs that were lost because a machine was taken away, each one soon makes room for the next.
    """

    def __init__(self, runs: Path) -> None:
        """Start with none.

        Args:
            runs: the folder of run folders.
        """
        self.runs = runs
        self.losses: dict[str, Loss] = {}
        self.waiting: deque[str] = deque()

    def count(self, key: str) -> int:
        """Note that a run lost its worker.

        Returns:
            How often it did so since it last got further.
        """
        mark = self.mark(key)
        before = self.losses.get(key)
        times = before.times + 1 if before and before.mark == mark else 1
        self.losses[key] = Loss(times, mark)
        return times

    def defer(self, key: str) -> None:
        """Let a run wait until it can be tried as a suspect."""
        self.losses.setdefault(key, Loss(0, self.mark(key)))
        self.waiting.append(key)

    def take(self, running: Set[str], alone: Set[str] = frozenset()) -> str | None:
        """Take a suspect that can be tried now.

        Args:
            running: keys of the runs that run.
            alone: keys of those that must not run beside any other.
        """
        for key, loss in list(self.losses.items()):
            if key in running and self.mark(key) != loss.mark:
                del self.losses[key]
        if not self.waiting or running & self.losses.keys():
            return None
        if running and self.waiting[0] in alone:
            return None
        return self.waiting.popleft()

    def forget(self, key: str) -> None:
        """Forget a run that ended."""
        self.losses.pop(key, None)
        if key in self.waiting:
            self.waiting.remove(key)

    def mark(self, key: str) -> int:
        """Tell a run's checkpoints from one another."""
        return RunFolder(self.runs, key).checkpoint_mark()
