"""What a person sees while a study runs, and the moments at which MLflow is brought up to date."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.execute import Outcome
from harness.folder import RunFolder, read_json
from harness.plan import Plan, Planned, Schedule
from harness.track import Mirror
from harness.trunk_states import awaited, keep_within

SHOWN = 0.5
"""Seconds between two looks at the running runs."""


class Show:
    """Progress bars on a terminal, one line a finished run elsewhere."""

    def __init__(
        self, plan: Plan, schedule: Schedule, mirror: Mirror, console: Console, trunk_bytes: float = math.inf
    ) -> None:
        """Show the runs of a plan.

        Args:
            plan: of the study.
            schedule: what is left of it.
            mirror: brought up to date with what is seen.
            console: where to show it.
            trunk_bytes: what the states of trunks may take of the disk.
        """
        self.trunk_bytes = trunk_bytes
        self.plan, self.schedule, self.mirror, self.console = plan, schedule, mirror, console
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.looked = 0.0
        self.since: dict[str, float] = {}
        self.bar_of: dict[str, TaskID] = {}
        self.warned = ""
        self.said_waiting = False

    def __enter__(self) -> "Show":
        """Start showing."""
        self.bars.start()
        self.total = self.bars.add_task("runs", total=len(self.plan.runs), completed=len(self.schedule.finished))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop showing."""
        self.bars.stop()

    def started(self, planned: Planned) -> None:
        """A run starts or resumes."""
        key = planned.key
        self.since[key] = time.monotonic()
        if key not in self.bar_of:
            self.bar_of[key] = self.bars.add_task(f"  {planned.run}", total=planned.epochs or None)

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """A run ended."""
        key = planned.key
        seconds = time.monotonic() - self.since[key]
        if key in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(key))
        self.bars.advance(self.total)
        done = len(self.schedule.finished) + len(self.schedule.failed)
        reason = f": {outcome.reason}" if outcome.reason else ""
        if outcome.state != "finished" or not self.console.is_terminal:
            self.console.print(
                f"[{done}/{len(self.plan.runs)}] {planned.run}: {outcome.state} in {seconds:.1f} s{reason}",
                markup=False,
                soft_wrap=True,
            )
        if key in self.schedule.by_others:
            self.mirror.leave(planned)
        else:
            self.mirror.send(planned)
        keep_within(self.mirror.runs, self.trunk_bytes, awaited(self.schedule))
        self.warn()

    def tick(self) -> None:
        """Look how far the running runs are."""
        if time.monotonic() - self.looked < SHOWN:
            return
        self.looked = time.monotonic()
        for key in [*self.schedule.running, *self.schedule.elsewhere]:
            folder = RunFolder(self.mirror.runs, key)
            progress = read_json(folder.progress)
            if progress and key in self.bar_of:
                self.bars.update(self.bar_of[key], completed=progress["epoch"])
                if (owner := folder.owner()) and owner.driver == self.schedule.driver:
                    self.mirror.send(self.plan.runs[key], live=True)
        if self.schedule.elsewhere and not self.schedule.running and not self.said_waiting:
            self.said_waiting = True
            count = len(self.schedule.elsewhere)
            self.console.print(f"waiting for {count} of the runs, on which another driver works", soft_wrap=True)
        self.warn()

    def warn(self) -> None:
        """Say once what is wrong with the tracking store."""
        if self.mirror.problem and self.mirror.problem != self.warned:
            self.warned = self.mirror.problem
            self.console.print(f"warning: {self.warned}; training goes on", markup=False, soft_wrap=True)
