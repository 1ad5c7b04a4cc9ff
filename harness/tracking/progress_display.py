"""The progress display of `econ run`. While it watches the runs, it also keeps the mirror in MLflow up to date."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from harness.planning.planned_runs import Planned, PlannedRuns
from harness.planning.schedule import Schedule
from harness.planning.trunk_storage import limit_trunk_storage, needed_trunks
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder
from harness.tracking.background_mirror import BackgroundMirror
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.status import RunStatus, format_duration, read_status, seconds_left, unstarted_status

REFRESH_SECONDS = 0.5
"""Seconds between two refreshes of the display."""
ELSEWHERE_SECONDS = 5.0
"""Seconds between two searches for runs that other drivers work on."""
PRINT_SECONDS = 300.0
"""Seconds between two printed summaries where there is no terminal."""


class StudyStoppedError(Exception):
    """No run of the study can continue. The message says why, and what to do."""


class ProgressDisplay:
    """Shows a study's progress: bars on a terminal; elsewhere a line per ended run and a summary now and then.

    Attributes:
        runs: the status of each run as if it had not been started, by key.
        start_times: when each running run was started here, on the monotonic clock, by key.
        bars_by_key: the progress bar of each run that has one.
        elsewhere: the status of each run that another driver works on, by key.
        warned: the problem of the tracking store that was last printed; "" if there is none now.
    """

    def __init__(
        self,
        plan: PlannedRuns,
        schedule: Schedule,
        mirror: Mirror | BackgroundMirror,
        console: Console,
        trunk_bytes: float = math.inf,
    ) -> None:
        """Prepare the display of a plan.

        Args:
            plan: the study's plan.
            schedule: what is left of the plan.
            mirror: sends the runs to MLflow.
            console: where to print.
            trunk_bytes: the disk space that the states of trunks may take.
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
        self.runs = {key: unstarted_status(planned) for key, planned in plan.runs.items()}
        self.refreshed = self.searched_elsewhere = self.printed = time.monotonic()
        self.start_times: dict[str, float] = {}
        self.bars_by_key: dict[str, TaskID] = {}
        self.elsewhere: dict[str, RunStatus] = {}
        self.warned = ""
        self.said_waiting = self.said_trunks_too_large = False

    def __enter__(self) -> "ProgressDisplay":
        """Start the display."""
        self.bars.start()
        self.total = self.bars.add_task("runs", total=len(self.plan.runs), detail="")
        self.refresh()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the display."""
        if kind is None:
            self.refresh()
        self.bars.stop()

    # --- called by the engine ---------------------------------------------------------------------------------

    def started(self, planned: Planned) -> None:
        """Note that a run starts or resumes."""
        self.start_times.setdefault(planned.key, time.monotonic())
        self.tick()

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """Print how a run ended, send it to MLflow, and remove trunks that are no longer needed.

        Raises:
            StudyStoppedError: if the run could not write its files. Every other run would train for nothing.
        """
        key = planned.key
        now = time.monotonic()
        seconds = now - self.start_times.pop(key, now)
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
        needed = needed_trunks(self.schedule)
        removed = limit_trunk_storage(self.mirror.runs, self.trunk_bytes, needed)
        if needed.intersection(removed) and not self.said_trunks_too_large:
            self.said_trunks_too_large = True
            self.console.print("warning: --trunk-gb is too small: shared training is repeated", highlight=False)
        self.tick()

    def tick(self) -> None:
        """Refresh the display if the last refresh is long enough ago."""
        if time.monotonic() - self.refreshed >= REFRESH_SECONDS:
            self.refresh()

    # --- what is shown ----------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the status of the running runs, and update the bars and the mirror."""
        self.refreshed = time.monotonic()
        running = self.schedule.running
        here = [read_status(self.runs[key], self.mirror.runs, "running") for key in self.start_times if key in running]
        for status in here:
            owner = RunFolder(self.mirror.runs, status.key).owner() if status.epoch else None
            if owner and owner.driver == self.schedule.driver:
                self.mirror.send(self.plan.runs[status.key], live=True)
        if self.refreshed - self.searched_elsewhere >= ELSEWHERE_SECONDS:
            self.find_runs_elsewhere()
        if self.schedule.elsewhere and not running and not self.said_waiting:
            self.said_waiting = True
            count = len(self.schedule.elsewhere)
            self.console.print(f"waiting for {count} of the runs, on which another driver works", soft_wrap=True)
        self.draw([*here, *(status for key, status in self.elsewhere.items() if key not in running)])
        self.warn_about_store()

    def find_runs_elsewhere(self) -> None:
        """Find the runs of this study that other drivers work on."""
        self.searched_elsewhere = time.monotonic()
        ended = self.schedule.finished | self.schedule.failed.keys() | self.schedule.running
        others = (run for key, run in self.runs.items() if key not in ended)
        begun = (run for run in others if RunFolder(self.mirror.runs, run.key).progress.exists())
        statuses = (read_status(run, self.mirror.runs) for run in begun)
        self.elsewhere = {status.key: status for status in statuses if status.state == "running"}

    def draw(self, running: list[RunStatus]) -> None:
        """Draw a bar for the whole study and one for each running run, as far as the terminal has room.

        Without a terminal, print a summary every `PRINT_SECONDS` instead.
        """
        summary = self.summarize(running)
        if not self.console.is_terminal:
            if time.monotonic() - self.printed >= PRINT_SECONDS:
                self.printed = time.monotonic()
                self.console.print(summary, highlight=False, markup=False, soft_wrap=True)
            return
        done = len(self.schedule.finished) + len(self.schedule.failed)
        shown = running[: max(1, self.console.height - 2)]
        hidden = f" ({len(running) - len(shown)} not shown)" if len(shown) < len(running) else ""
        self.bars.update(self.total, completed=done, description=f"{summary}{hidden}")
        for status in shown:
            if status.key not in self.bars_by_key:
                self.bars_by_key[status.key] = self.bars.add_task(f"  {status.run}", total=None, detail="")
            worker = f" · {status.host}:{status.pid}" if status.key in self.elsewhere else ""
            detail = f"{status.describe()}{worker}{describe_time_left(status)}"
            bar = self.bars_by_key[status.key]
            self.bars.update(bar, completed=status.epoch, total=status.epochs or None, detail=detail)
        for key in self.bars_by_key.keys() - {status.key for status in shown}:
            self.bars.remove_task(self.bars_by_key.pop(key))

    def summarize(self, running: list[RunStatus]) -> str:
        """Return how many runs are finished and running, and an estimate of the time left."""
        known = {status.key: status for status in running}
        ended = self.schedule.finished | self.schedule.failed.keys()
        rest = [known.get(key, run) for key, run in self.runs.items() if key not in ended]
        seconds = seconds_left(rest, time.time())
        left = "" if seconds is None else f", about {format_duration(seconds)} left"
        failed = f", {len(self.schedule.failed)} failed" if self.schedule.failed else ""
        elsewhere = f", {len(self.elsewhere)} elsewhere" if self.elsewhere else ""
        done = f"{len(self.schedule.finished)} of {len(self.plan.runs)} finished{failed}"
        return f"{done}, {len(running)} running{elsewhere}{left}"

    def warn_about_store(self) -> None:
        """Print a new problem of the tracking store once, and once that the store works again."""
        problem = self.mirror.problem
        if problem and not self.warned:
            what = f"{problem}; training continues, and the missing runs are sent later"
            self.console.print(f"warning: {what}", markup=False, highlight=False, soft_wrap=True)
        elif self.warned and not problem:
            self.console.print("the tracking store works again", highlight=False)
        self.warned = problem


def describe_time_left(status: RunStatus) -> str:
    """Return how long a run still trains, as a phrase that follows its epoch; "" if that is unknown."""
    return "" if status.ends is None else f", {format_duration(status.ends - time.time())} left"
