"""What an engine is: it executes what a schedule hands out, and tells who watches."""

import time
from collections.abc import Callable
from typing import Protocol

from harness.planning.plan import Planned
from harness.planning.schedule import Schedule
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.running.worker_process import trim_heap
from harness.store.outcome import Outcome
from harness.tuning.trial import PlannedTrial, execute_trial


class EngineError(Exception):
    """An engine cannot work; the message says why, and what to do."""


class WatchError(BaseException):
    """Who watches a run failed, which is no failure of the run."""


class Watch(Protocol):
    """Is told what happens."""

    def started(self, planned: Planned) -> None:
        """A run starts or resumes."""

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """A run ended."""

    def tick(self) -> None:
        """Time passed: called at least every second or every epoch."""


class Engine(Protocol):
    """Executes what a schedule hands out."""

    def run(self, schedule: Schedule, settings: Settings, watch: Watch) -> None:
        """Execute until nothing is left."""


MOMENT = 0.2
"""Seconds to wait where there is nothing to do."""


def end(schedule: Schedule, watch: Watch, key: str, outcome: Outcome) -> None:
    """Note how a run ended; one that is elsewhere has not, and is looked after by `look`."""
    schedule.end(key, outcome)
    if outcome.state != "elsewhere":
        watch.ended(schedule.runs[key], outcome)


def look(schedule: Schedule, settings: Settings, watch: Watch) -> None:
    """Note what other drivers have ended; to be called again and again."""
    for key, outcome in schedule.check_elsewhere(settings.runs):
        watch.ended(schedule.runs[key], outcome)


def rest(schedule: Schedule, settings: Settings, watch: Watch) -> None:
    """Wait a moment for other drivers.

    Raises:
        RuntimeError: if nothing runs here or there that what is left could wait for.
    """
    if not schedule.running and not schedule.elsewhere:
        names = ", ".join(str(schedule.runs[key].run) for key in schedule.waiting)
        raise RuntimeError(f"what these runs need is neither finished nor part of the plan: {names}")
    time.sleep(MOMENT)
    look(schedule, settings, watch)
    watch.tick()


def work(planned: Planned, settings: Settings, report: Callable[[], None] = lambda: None) -> Outcome:
    """Execute one planned run, in whatever process.

    Args:
        planned: the run.
        settings: where and on what.
        report: called at the end of every epoch; what it raises stops the run, as Ctrl-C does, and is raised.
    """

    def tell() -> None:
        try:
            report()
        except Exception as error:
            raise WatchError from error

    try:
        if isinstance(planned, PlannedTrial):
            return execute_trial(planned, settings, tell)
        return execute(planned.run, settings, [*planned.needs, *planned.beside], tell, list(planned.trunks))
    except WatchError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    finally:
        trim_heap()
