"""What an engine is: it executes what a schedule hands out, and tells who watches."""

from collections.abc import Callable
from typing import Protocol

from harness.execute import Outcome, Settings, execute
from harness.plan import Planned, Schedule


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


def work(planned: Planned, settings: Settings, report: Callable[[], None] = lambda: None) -> Outcome:
    """Execute one planned run, in whatever process.

    Args:
        planned: the run.
        settings: where and on what.
        report: called at the end of every epoch.
    """
    return execute(planned.run, settings, [*planned.needs, *planned.beside], report, list(planned.trunks))
