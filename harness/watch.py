"""What a person sees while a study runs, and the moments at which MLflow is brought up to date."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.execute import Outcome
from harness.folder import RunFolder
from harness.plan import Plan, Planned, Schedule
from harness.track import Mirror, read_json

SHOWN = 0.5
"""Seconds between two looks at the running runs."""


class Show:
    """Progress bars on a terminal, one line a finished run elsewhere."""

    def __init__(self, plan: Plan, schedule: Schedule, mirror: Mirror, console: Console) -> None:
        """Show the runs of a plan."""
        self.plan, self.schedule, self.mirror, self.console = plan, schedule, mirror, console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
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
        key = planned.run.key
        self.since[key] = time.monotonic()
        if key not in self.bar_of:
            self.bar_of[key] = self.bars.add_task(f"  {planned.run}", total=planned.epochs or None)

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """A run ended."""
        key = planned.run.key
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
    """Tabulate what a study trains: its cells, and the epochs as written and left."""
    table = Table(title=f"study {plan.study.name}: {len(plan.runs)} runs")
    for column in ("dataset", "architecture", "method", "seeds", "epochs as written", "runs left", "epochs left"):
        table.add_column(column, justify="right" if column[0] in "ers" else "left")
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key, planned in plan.runs.items():
        label = planned.label if planned.role == "cell" else f"(needed) {planned.label}"
        groups.setdefault((planned.run.dataset.label, planned.run.architecture, label), []).append(key)
    written = left = 0
    for (dataset, architecture, label), keys in sorted(groups.items()):
        cell = plan.runs[keys[0]].role == "cell"
        own = sum(plan.epochs_as_written(key) for key in keys) if cell else 0
        to_do = [key for key in keys if key not in finished]
        rest = sum(plan.runs[key].epochs for key in to_do)
        written, left = written + own, left + rest
        table.add_row(
            dataset, architecture, label, str(len(keys)), str(own) if cell else "", str(len(to_do)), str(rest)
        )
    table.add_section()
    table.add_row("total", "", "", "", str(written), str(len(plan.runs) - len(finished)), str(left))
    return table
