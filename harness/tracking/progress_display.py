"""What a person sees while a study runs, and the moments at which MLflow is brought up to date."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from harness.planning.plan import Plan, Planned
from harness.planning.schedule import Schedule
from harness.planning.trunk_storage import awaited, keep_within
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder
from harness.tracking.background_mirror import BackgroundMirror
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.status import RunStatus, look, seconds_left, spell, to_do

SHOWN = 0.5
"""Seconds between two looks at the running runs."""
ELSEWHERE = 5.0
"""Seconds between two looks for runs that other drivers work on."""
PRINTED = 300.0
"""Seconds between two lines about all runs where there is no terminal."""


class StudyStoppedError(Exception):
    """No run can go on: its message says why, and what to do."""


class ProgressDisplay:
    """Progress bars on a terminal; elsewhere a line a finished run, and now and then one about all."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        mirror: Mirror | BackgroundMirror,
        console: Console,
        trunk_bytes: float = math.inf,
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
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self.runs = {key: to_do(planned) for key, planned in plan.runs.items()}
        self.looked = self.looked_elsewhere = self.printed = time.monotonic()
        self.since: dict[str, float] = {}
        self.bar_of: dict[str, TaskID] = {}
        self.elsewhere: dict[str, RunStatus] = {}
        self.warned = ""
        self.said_waiting = self.said_small = False

    def __enter__(self) -> "ProgressDisplay":
        """Start showing."""
        self.bars.start()
        self.total = self.bars.add_task("runs", total=len(self.plan.runs), detail="")
        self.look()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop showing."""
        if kind is None:
            self.look()
        self.bars.stop()

    def started(self, planned: Planned) -> None:
        """A run starts or resumes."""
        self.since.setdefault(planned.key, time.monotonic())
        self.tick()

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """A run ended.

        Raises:
            StudyStoppedError: if it could not write its files: every other run would train for nothing.
        """
        key = planned.key
        now = time.monotonic()
        seconds = now - self.since.pop(key, now)
        if outcome.state == "blocked":
            raise StudyStoppedError(outcome.reason)
        done = len(self.schedule.finished) + len(self.schedule.failed)
        reason = f": {outcome.reason}" if outcome.reason else ""
        if outcome.state != "finished" or not self.console.is_terminal:
            self.console.print(
                f"[{done}/{len(self.plan.runs)}] {planned.run}: {outcome.state} in {seconds:.1f} s{reason}",
                markup=False,
                soft_wrap=True,
            )
        if key in self.schedule.by_others:
            self.mirror.leave_to_other_driver(planned)
        else:
            self.mirror.send(planned)
        wanted = awaited(self.schedule)
        removed = keep_within(self.mirror.runs, self.trunk_bytes, wanted)
        if wanted.intersection(removed) and not self.said_small:
            self.said_small = True
            self.console.print("warning: --trunk-gb is too small: what runs share is trained again", highlight=False)
        self.tick()

    def tick(self) -> None:
        """Look how far the running runs are, now and then."""
        if time.monotonic() - self.looked >= SHOWN:
            self.look()

    def look(self) -> None:
        """Look how far the running runs are, and bring bars and mirror up to date."""
        self.looked = time.monotonic()
        running = self.schedule.running
        here = [look(self.runs[key], self.mirror.runs, "running") for key in self.since if key in running]
        for status in here:
            owner = RunFolder(self.mirror.runs, status.key).owner() if status.epoch else None
            if owner and owner.driver == self.schedule.driver:
                self.mirror.send(self.plan.runs[status.key], live=True)
        if self.looked - self.looked_elsewhere >= ELSEWHERE:
            self.look_elsewhere()
        if self.schedule.elsewhere and not running and not self.said_waiting:
            self.said_waiting = True
            count = len(self.schedule.elsewhere)
            self.console.print(f"waiting for {count} of the runs, on which another driver works", soft_wrap=True)
        self.show([*here, *(status for key, status in self.elsewhere.items() if key not in running)])
        self.warn()

    def look_elsewhere(self) -> None:
        """Look for runs of this study that other drivers work on."""
        self.looked_elsewhere = time.monotonic()
        ended = self.schedule.finished | self.schedule.failed.keys() | self.schedule.running
        others = (run for key, run in self.runs.items() if key not in ended)
        begun = (run for run in others if RunFolder(self.mirror.runs, run.key).progress.exists())
        statuses = (look(run, self.mirror.runs) for run in begun)
        self.elsewhere = {status.key: status for status in statuses if status.state == "running"}

    def show(self, running: list[RunStatus]) -> None:
        """Draw a bar for each running run that there is room for, and one for all; or print a line, seldom."""
        outlook = self.outlook(running)
        if not self.console.is_terminal:
            if time.monotonic() - self.printed >= PRINTED:
                self.printed = time.monotonic()
                self.console.print(outlook, highlight=False, markup=False, soft_wrap=True)
            return
        done = len(self.schedule.finished) + len(self.schedule.failed)
        shown = running[: max(1, self.console.height - 2)]
        hidden = f" ({len(running) - len(shown)} not shown)" if len(shown) < len(running) else ""
        self.bars.update(self.total, completed=done, description=f"{outlook}{hidden}")
        for status in shown:
            if status.key not in self.bar_of:
                self.bar_of[status.key] = self.bars.add_task(f"  {status.run}", total=None, detail="")
            place = f" · {status.host}:{status.pid}" if status.key in self.elsewhere else ""
            detail = f"{status.describe()}{place}{left(status)}"
            bar = self.bar_of[status.key]
            self.bars.update(bar, completed=status.epoch, total=status.epochs or None, detail=detail)
        for key in self.bar_of.keys() - {status.key for status in shown}:
            self.bars.remove_task(self.bar_of.pop(key))

    def outlook(self, running: list[RunStatus]) -> str:
        """Say how many runs are done and run, and how long the rest takes if all goes on like this."""
        known = {status.key: status for status in running}
        ended = self.schedule.finished | self.schedule.failed.keys()
        rest = [known.get(key, run) for key, run in self.runs.items() if key not in ended]
        seconds = seconds_left(rest, time.time())
        left = "" if seconds is None else f", about {spell(seconds)} left"
        failed = f", {len(self.schedule.failed)} failed" if self.schedule.failed else ""
        there = f", {len(self.elsewhere)} elsewhere" if self.elsewhere else ""
        done = f"{len(self.schedule.finished)} of {len(self.plan.runs)} finished{failed}"
        return f"{done}, {len(running)} running{there}{left}"

    def warn(self) -> None:
        """Say once what is wrong with the tracking store, and when it is well again."""
        problem = self.mirror.problem
        if problem and not self.warned:
            what = f"{problem}; training goes on, and what it lacks is sent later"
            self.console.print(f"warning: {what}", markup=False, highlight=False, soft_wrap=True)
        elif self.warned and not problem:
            self.console.print("the tracking store takes what it is sent again", highlight=False)
        self.warned = problem


def left(status: RunStatus) -> str:
    """Say how long a run still trains, if that is known."""
    return "" if status.ends is None else f", {spell(status.ends - time.time())} left"
