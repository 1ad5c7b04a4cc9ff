"""Shows the progress of tuning, and sends trials and searches to MLflow when they change."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.planning.planned_runs import Planned
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder
from harness.tracking.background_mirror import BackgroundMirror
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.progress_display import REFRESH_SECONDS, StudyStoppedError
from harness.tuning.mlflow_trials import track_search, track_trial
from harness.tuning.study_searches import StudySearches
from harness.tuning.trial import PlannedTrial
from harness.tuning.trial_budget import Budget, budget_used
from harness.tuning.trial_journal import trial_end
from harness.tuning.trial_schedule import TrialSchedule


class TuningDisplay:
    """Shows progress bars on a terminal, and prints one line for each trial elsewhere."""

    def __init__(
        self,
        trials: TrialSchedule,
        mirror: Mirror | BackgroundMirror,
        console: Console,
        save_chosen: Callable[[], None] = lambda: None,
    ) -> None:
        """Configure the display.

        Args:
            trials: the schedule of trials.
            mirror: sends to MLflow.
            console: to print to.
            save_chosen: called after each trial, to save the values chosen so far.
        """
        self.save_chosen = save_chosen
        self.trials, self.mirror, self.console = trials, mirror, console
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.started_at: dict[str, float] = {}
        self.bar_of: dict[str, TaskID] = {}
        self.checked_for_refused: dict[str, int] = {}  # by search, how many of its trials
        self.updated_at = 0.0
        self.shown_warning = ""

    def __enter__(self) -> "TuningDisplay":
        """Start the display, and send what an earlier launch did not send."""
        self.bars.start()
        self.total = self.bars.add_task("trials", total=len(self.trials.searches) * self.trials.budget.trials)
        for key in self.trials.searches:
            for trial in self.trials.trials(key):
                if trial.state.is_finished() and trial_end(trial)["state"] != "refused":
                    self.send_trial(key, trial.number)
            self.send_search(key)
        self.save_chosen()
        self.update_total()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the display."""
        self.bars.stop()

    def started(self, planned: Planned) -> None:
        """Show a trial that starts or resumes."""
        self.started_at[planned.key] = time.monotonic()
        if planned.key not in self.bar_of and isinstance(planned, PlannedTrial):
            name = f"  {planned.number}: {planned.run.method} · {planned.run.setup}"
            self.bar_of[planned.key] = self.bars.add_task(name, total=planned.epochs)

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """Print how a trial ended, and send it.

        Raises:
            StudyStoppedError: if it could not write its files. Every other trial would train in vain.
        """
        assert isinstance(planned, PlannedTrial)
        if outcome.state == "blocked":
            raise StudyStoppedError(outcome.reason)
        seconds = time.monotonic() - self.started_at[planned.key]
        if planned.key in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(planned.key))
        end = RunFolder(self.mirror.runs, planned.key).read_result() if outcome.state == "finished" else {}
        state, reason = (end["state"], end["reason"]) if end else outcome
        metric = f": {planned.metric} {end['value']:.4f}" if end and end["value"] is not None else ""
        used = budget_used(self.trials.trials(planned.search))
        self.console.print(
            f"[{used.counted - used.running}/{self.trials.budget.trials}] {planned.run} · trial {planned.number}: "
            f"{state} in {seconds:.1f} s{metric}{f': {reason}' if reason else ''}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        self.send_trial(planned.search, planned.number)
        self.send_search(planned.search)
        self.save_chosen()
        self.update_total()
        self.warn()

    def tick(self) -> None:
        """Show and send the progress of the running trials."""
        if time.monotonic() - self.updated_at < REFRESH_SECONDS:
            return
        self.updated_at = time.monotonic()
        for key in self.bar_of.keys() - self.trials.running:  # another driver has taken them over
            self.bars.remove_task(self.bar_of.pop(key))
        for key in list(self.trials.running):
            progress = RunFolder(self.mirror.runs, key).read_progress()
            if progress and key in self.bar_of:
                self.bars.update(self.bar_of[key], completed=progress["epoch"])
                planned = self.trials.runs[key]
                self.send_trial(planned.search, planned.number, live=True)
        self.warn()

    def send_trial(self, key: str, number: int, *, live: bool = False) -> None:
        """Send a trial of a search as it is in the journal."""
        self.mirror.send(track_trial(self.trials.searches[key], self.trials.trials(key), number), live=live)

    def send_search(self, key: str) -> None:
        """Send the state of a search, and the values that it refused since the last call."""
        search, trials = self.trials.searches[key], self.trials.trials(key)
        for trial in trials[self.checked_for_refused.get(key, 0) :]:
            if trial_end(trial)["state"] == "refused":
                self.send_trial(key, trial.number)
        self.checked_for_refused[key] = len(trials)
        self.mirror.send(track_search(search, trials, complete=self.trials.is_complete(key)))

    def update_total(self) -> None:
        """Update the progress bar of all trials. A search that is over counts with the trials it had."""
        used = {key: budget_used(self.trials.trials(key)) for key in self.trials.searches}
        counts = {key: each.counted - each.running for key, each in used.items()}
        total = sum(n if self.trials.is_complete(key) else self.trials.budget.trials for key, n in counts.items())
        self.bars.update(self.total, completed=sum(counts.values()), total=total)

    def warn(self) -> None:
        """Print a problem of the tracking store, once."""
        if self.mirror.problem and self.mirror.problem != self.shown_warning:
            self.shown_warning = self.mirror.problem
            self.console.print(f"warning: {self.shown_warning}; tuning continues", markup=False, soft_wrap=True)


def tuning_table(searches: StudySearches, budget: Budget, used: Mapping[str, int]) -> Table:
    """Return a table of the searches, with the maximum number of trials, epochs and plain trainings of each.

    Args:
        searches: of the study.
        budget: of each search.
        used: number of trials so far, by the key of the search.
    """
    table = Table(title=f"at most {budget.trials} trials and {budget.cost:g} plain trainings a method")
    table.add_column("method", overflow="fold")
    table.add_column("searched", overflow="fold")
    for column in ("trials", "done", "epochs at most", "plain trainings at most"):
        table.add_column(column, justify="right")
    totals = [0, 0, 0, 0.0]
    heading = ""
    for search in searches.searches:
        if search.dataset_and_architecture != heading:
            heading = search.dataset_and_architecture
            table.add_row(heading, style="bold")
        cost = search.expected_cost(search.run)
        trials = min(budget.trials, max(1, int(budget.max_cost / cost)))
        figures = [trials, used.get(search.key, 0), trials * search.run.recipe.epochs, trials * cost]
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        table.add_row(search.expression, ", ".join(search.space), *map(format_number, figures))
    table.add_section()
    table.add_row("total", "", *map(format_number, totals), style="bold")
    return table


def format_number(figure: float) -> str:
    """Format a count, or a cost with one decimal."""
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.1f}"
