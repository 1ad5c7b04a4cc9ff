"""The schedule of a plan: which run starts next, as soon as what it needs is finished."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.planning.plan import Planned
from harness.store.claim import Lookout
from harness.store.outcome import FOUND, Outcome
from harness.store.run_folder import RunFolder, read_json

LOOK = 1.0
"""Seconds between two looks at the runs that other drivers work on."""


class Schedule:
    """Hands out the runs that are left, each as soon as what it needs is finished.

    Attributes:
        running: keys of the runs that workers of this driver have.
        elsewhere: keys of the runs that another driver works on.
        by_others: keys of the runs that another driver has ended since this one began.
        driver: what claims of this driver's workers call it.
    """

    def __init__(self, runs: Mapping[str, Planned], finished: set[str], driver: str = "") -> None:
        """Start from what is finished."""
        self.runs, self.driver = runs, driver
        self.finished = set(finished)
        self.failed: dict[str, Outcome] = {}
        self.waiting = deque(key for key in runs if key not in finished)
        self.running: set[str] = set()
        self.elsewhere: set[str] = set()
        self.by_others: set[str] = set()
        self.lookout = Lookout()
        self.looked = time.monotonic()

    @property
    def left(self) -> bool:
        """Whether some run has not ended."""
        return bool(self.waiting or self.running or self.elsewhere)

    def take(self) -> str | None:
        """Take the next run that can start now, or None; one whose needs failed can start, and will say so."""
        ended = self.finished | self.failed.keys()
        for key in self.waiting:
            if ended.issuperset(self.runs[key].after):
                self.waiting.remove(key)
                self.running.add(key)
                return key
        return None

    def end(self, key: str, outcome: Outcome) -> None:
        """Note how a run ended, or that it is elsewhere."""
        self.running.discard(key)
        if outcome.state == "elsewhere":
            self.elsewhere.add(key)
        elif outcome.state == "finished":
            self.finished.add(key)
        else:
            self.failed[key] = outcome
        if outcome == Outcome("finished", FOUND):
            self.by_others.add(key)

    def put_back(self, key: str) -> None:
        """Put a run back whose worker died."""
        self.running.discard(key)
        self.waiting.appendleft(key)

    def check_elsewhere(self, root: Path) -> Iterator[tuple[str, Outcome]]:
        """Look after the runs that are elsewhere, now and then; those that others have left wait to be taken again.

        Args:
            root: the folder of run folders.

        Yields:
            The runs that another driver has ended.
        """
        if time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        for key in list(self.elsewhere):
            folder = RunFolder(root, key)
            free = self.lookout.free(folder.path)  # asked first: an owner writes its result, then frees the run
            if outcome := ended_elsewhere(folder, free):
                self.elsewhere.remove(key)
                self.by_others.add(key)
                self.end(key, outcome)
                yield key, outcome
            elif free:
                self.elsewhere.remove(key)
                self.waiting.appendleft(key)


def ended_elsewhere(folder: RunFolder, free: bool) -> Outcome | None:
    """Say how another driver ended a run, None if it did not.

    Args:
        folder: the run's.
        free: whether nobody works on it.
    """
    if folder.finished:
        return Outcome("finished", "by another driver")
    failure = read_json(folder.failure) if free else {}
    if failure and failure["state"] != "out of memory":  # that is tried again, by whoever comes first
        return Outcome(failure["state"], f"{failure['reason']} (another driver tried it)")
    return None
