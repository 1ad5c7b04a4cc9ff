"""The schedule of a plan: which run starts next. A run can start once everything it needs is finished."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.planning.planned_runs import Planned
from harness.store.claim_observer import ClaimObserver
from harness.store.outcome import ALREADY_FINISHED, Outcome
from harness.store.run_folder import RunFolder

CHECK_SECONDS = 1.0
"""Seconds between two checks of the runs that other drivers work on."""


class Schedule:
    """Hands out the unfinished runs, each once everything it needs is finished.

    Attributes:
        runs: all runs of the plan, by key.
        finished: keys of the finished runs.
        failed: how the runs ended that did not finish, by key.
        waiting: keys of the runs that are to be started, in the plan's order.
        running: keys of the runs that workers of this driver execute.
        elsewhere: keys of the runs that another driver executes.
        by_others: keys of the runs that another driver has ended since this driver began.
        driver: this driver's name in the claims of its workers.
    """

    def __init__(self, runs: Mapping[str, Planned], finished: set[str], driver: str = "") -> None:
        """Make the schedule of a plan's runs.

        Args:
            runs: all runs of the plan, by key, needed ones before those that need them.
            finished: keys of the runs that are finished already.
            driver: this driver's name in the claims of its workers.
        """
        self.runs, self.driver = runs, driver
        self.finished = set(finished)
        self.failed: dict[str, Outcome] = {}
        self.waiting = deque(key for key in runs if key not in finished)
        self.running: set[str] = set()
        self.elsewhere: set[str] = set()
        self.by_others: set[str] = set()
        self.claim_observer = ClaimObserver()
        self.checked = time.monotonic()

    @property
    def left(self) -> bool:
        """Whether a run has not ended."""
        return bool(self.waiting or self.running or self.elsewhere)

    def take(self) -> str | None:
        """Move the next run that can start to `running`, and return its key; None if none can start now.

        A run also starts if a run that it needs has failed. Its execution then fails with that reason.
        """
        ended = self.finished | self.failed.keys()
        for key in self.waiting:
            if ended.issuperset(self.runs[key].after):
                self.waiting.remove(key)
                self.running.add(key)
                return key
        return None

    def end(self, key: str, outcome: Outcome) -> None:
        """Note how a run ended, or that another driver executes it."""
        self.running.discard(key)
        if outcome.state == "elsewhere":
            self.elsewhere.add(key)
        elif outcome.state == "finished":
            self.finished.add(key)
        else:
            self.failed[key] = outcome
        if outcome == Outcome("finished", ALREADY_FINISHED):
            self.by_others.add(key)

    def put_back(self, key: str) -> None:
        """Make a run, whose worker died, the next to start."""
        self.running.discard(key)
        self.waiting.appendleft(key)

    def check_elsewhere(self, root: Path) -> Iterator[tuple[str, Outcome]]:
        """Check the runs that other drivers execute, at most every `CHECK_SECONDS`.

        A run that its driver has left unfinished is the next to start here.

        Args:
            root: the folder of run folders.

        Yields:
            The key and outcome of each run that another driver has ended.
        """
        if time.monotonic() - self.checked < CHECK_SECONDS:
            return
        self.checked = time.monotonic()
        for key in list(self.elsewhere):
            folder = RunFolder(root, key)
            free = self.claim_observer.is_free(
                folder.path
            )  # before the result: an owner writes that, then frees the run
            if outcome := read_outcome(folder, free):
                self.elsewhere.remove(key)
                self.by_others.add(key)
                self.end(key, outcome)
                yield key, outcome
            elif free:
                self.elsewhere.remove(key)
                self.waiting.appendleft(key)


def read_outcome(folder: RunFolder, free: bool) -> Outcome | None:
    """Return how another driver ended a run; None if the run has not ended.

    Args:
        folder: the run's folder.
        free: whether no process works on the run.
    """
    if folder.finished:
        return Outcome("finished", "by another driver")
    failure = folder.read_failure() if free else {}
    if failure and failure["state"] != "out of memory":  # such a run is tried again, by the first driver to take it
        return Outcome(failure["state"], f"{failure['reason']} (another driver tried it)")
    return None
