"""What a person sees while a study runs, and the moments at which MLflow is brought up to date."""

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from harness.execute import Outcome
from harness.folder import RunFolder, read_json
from harness.plan import Plan, Planned, Schedule
from harness.quadratic_study import QuadraticStudy
from harness.run import Run
from harness.track import Mirror

SHOWN = 0.5
"""Seconds between two looks at the running runs."""


class Show:
    """Progress bars on a terminal, one line a finished run elsewhere."""

    def __init__(self, plan: Plan, schedule: Schedule, mirror: Mirror, console: Console) -> None:
        """Show the runs of a plan."""
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
        self.mirror.send(planned)
        self.warn()

    def tick(self) -> None:
        """Look how far the running runs are."""
        if time.monotonic() - self.looked < SHOWN:
            return
        self.looked = time.monotonic()
        for key in self.schedule.running:
            progress = read_json(RunFolder(self.mirror.runs, key).progress)
            if progress and key in self.bar_of:
                self.bars.update(self.bar_of[key], completed=progress["epoch"])
                self.mirror.send(self.plan.runs[key], live=True)
        self.warn()

    def warn(self) -> None:
        """Say once what is wrong with the tracking store."""
        if self.mirror.problem and self.mirror.problem != self.warned:
            self.warned = self.mirror.problem
            self.console.print(f"warning: {self.warned}; training goes on", markup=False, soft_wrap=True)


def plan_table(plan: Plan, finished: set[str]) -> Table:
    """Tabulate what a study trains: the runs and epochs of each method, as written and left.

    "As written" counts for each cell all that it needs; what cells share is trained, and left, only once.
    """
    table = Table(title=f"study {plan.study.name}: {len(plan.runs)} runs, {len(finished)} of them finished")
    if isinstance(plan.study, QuadraticStudy):
        for column in ("setting", "iterations", "iterations left"):
            table.add_column(column, justify="right" if column != "setting" else "left")
        for key, planned in plan.runs.items():
            table.add_row(planned.label, f"{planned.epochs:,}", "" if key in finished else f"{planned.epochs:,}")
        return table
    table.add_column("method", overflow="fold")
    for column in ("cells", "epochs as written", "runs left", "epochs left"):
        table.add_column(column, justify="right")
    groups: dict[str, dict[str, list[str]]] = {}
    for key, planned in plan.runs.items():
        assert isinstance(planned.run, Run)
        place = f"{planned.run.dataset.label} · {planned.run.architecture}"
        name = planned.label if planned.role == "cell" else f"  needed: {planned.label}"
        groups.setdefault(place, {}).setdefault(name, []).append(key)
    totals = [0, 0, 0, 0]
    for place, methods in groups.items():
        table.add_row(escape(place), style="bold")
        for name, keys in sorted(methods.items()):
            cells = [key for key in keys if plan.runs[key].role == "cell"]
            left = [key for key in keys if key not in finished]
            counts = [
                len(cells),
                sum(plan.epochs_as_written(key) for key in cells),
                len(left),
                sum(plan.runs[key].epochs for key in left),
            ]
            table.add_row(escape(name), *(f"{count:,}" if count else "" for count in counts))
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
        table.add_section()
    table.add_row("total", *(f"{total:,}" for total in totals), style="bold")
    return table
