"""The interface of an engine, and what all engines share: they execute the runs that a schedule hands out."""

import time
from collections.abc import Callable
from typing import Protocol

from harness.planning.planned_runs import Planned
from harness.planning.schedule import Schedule
from harness.planning.trunks import TrunkRun
from harness.quadratic.problem import QuadraticRun
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.running.worker_process import trim_heap
from harness.store.outcome import Outcome
from harness.studies.run import Run
from harness.tuning.trial import PlannedTrial, execute_trial


class EngineError(Exception):
    """An engine cannot work. The message says why, and what to do about it."""


class ObserverError(BaseException):
    """An observer of a run raised an error. The run itself has not failed."""


class RunObserver(Protocol):
    """Receives the events of an engine, for example to show progress."""

    def started(self, planned: Planned) -> None:
        """Called when a run starts or resumes."""

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """Called when a run has ended."""

    def tick(self) -> None:
        """Called at least every second or every epoch."""


class Engine(Protocol):
    """Executes the runs that a schedule hands out."""

    def run(self, schedule: Schedule, settings: Settings, observer: RunObserver) -> None:
        """Execute runs until the schedule has none left."""


IDLE_SECONDS = 0.2
"""Seconds to wait if there is nothing to do."""


def record_end(schedule: Schedule, observer: RunObserver, key: str, outcome: Outcome) -> None:
    """Record how a run ended, and tell the observer.

    A run that is "elsewhere" has not ended: another driver works on it. `record_ends_elsewhere` records its end.
    """
    schedule.end(key, outcome)
    if outcome.state != "elsewhere":
        observer.ended(schedule.runs[key], outcome)


def record_ends_elsewhere(schedule: Schedule, settings: Settings, observer: RunObserver) -> None:
    """Record the runs that other drivers have ended. Engines call this regularly."""
    for key, outcome in schedule.check_elsewhere(settings.runs):
        observer.ended(schedule.runs[key], outcome)


def wait_for_other_drivers(schedule: Schedule, settings: Settings, observer: RunObserver) -> None:
    """Wait a moment for runs of other drivers.

    Raises:
        RuntimeError: if the runs that are left wait for runs that no driver executes.
    """
    if not schedule.running and not schedule.elsewhere:
        names = ", ".join(str(schedule.runs[key].run) for key in schedule.waiting)
        raise RuntimeError(f"the runs that these need are neither finished nor part of the plan: {names}")
    time.sleep(IDLE_SECONDS)
    record_ends_elsewhere(schedule, settings, observer)
    observer.tick()


def execute_planned(planned: Planned, settings: Settings, on_epoch: Callable[[], None] = lambda: None) -> Outcome:
    """Execute one planned run or trial in this process.

    Args:
        planned: the run or trial.
        settings: where and on which device to execute.
        on_epoch: called at the end of every epoch. An error that it raises interrupts the run and is raised again.
    """

    def notify() -> None:
        try:
            on_epoch()
        except Exception as error:
            raise ObserverError from error

    try:
        if isinstance(planned, PlannedTrial):
            return execute_trial(planned, settings, notify)
        assert isinstance(planned.run, Run | QuadraticRun | TrunkRun)  # `with_specs` has made it
        needed = [*planned.needs, *planned.reference_runs]
        return execute(planned.run, settings, needed, notify, list(planned.trunks), planned.contained)
    except ObserverError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    finally:
        trim_heap()
