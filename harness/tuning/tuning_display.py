"""What a person sees while a study is tuned, and the moments at which MLflow is brought up to date."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.planning.plan import Planned
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, read_json
from harness.tracking.background_mirror import BackgroundMirror
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.progress_display import REFRESH_SECONDS, StudyStoppedError
from harness.tuning.mlflow_trials import track_search, track_trial
from harness.tuning.study_searches import Searches
from harness.tuning.trial import PlannedTrial
from harness.tuning.trial_budget import Budget, account
from harness.tuning.trial_journal import end_of
from harness.tuning.trial_schedule import Trials


class TuningDisplay:
    """Progress bars on a terminal, one line a trial elsewhere."""

    def __init__(
        self,
        trials: Trials,
        mirror: Mirror | BackgroundMirror,
        console: Console,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        """Show the trials of some searches.

        Args:
            trials: the schedule.
            mirror: to MLflow.
            console: where to.
            keep: called after each trial, to write down what was chosen.
        """
        self.keep = keep
        self.trials, self.mirror, self.console = trials, mirror, console
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.since: dict[str, float] = {}
        self.bar_of: dict[str, TaskID] = {}
        self.refused: dict[str, int] = {}
        self.looked = 0.0
        self.warned = ""

    def __enter__(self) -> "TuningDisplay":
        """Start showing; send what an earlier start left unsent."""
        self.bars.start()
        self.total = self.bars.add_task("trials", total=len(self.trials.searches) * self.trials.budget.trials)
        for key in self.trials.searches:
            for trial in self.trials.trials(key):
                if trial.state.is_finished() and end_of(trial)["state"] != "refused":
                    self.send_trial(key, trial.number)
            self.send_search(key)
        self.keep()
        self.count()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop showing."""
        self.bars.stop()

    def started(self, planned: Planned) -> None:
        """A trial starts or resumes."""
        self.since[planned.key] = time.monotonic()
        if planned.key not in self.bar_of and isinstance(planned, PlannedTrial):
            name = f"  {planned.number}: {planned.run.method} · {planned.run.place}"
            self.bar_of[planned.key] = self.bars.add_task(name, total=planned.epochs)

    def ended(self, planned: Planned, outcome: Outcome) -> None:
        """A trial ended.

        Raises:
            StudyStoppedError: if it could not write its files: every other trial would train for nothing.
        """
        assert isinstance(planned, PlannedTrial)
        if outcome.state == "blocked":
            raise StudyStoppedError(outcome.reason)
        seconds = time.monotonic() - self.since[planned.key]
        if planned.key in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(planned.key))
        end = read_json(RunFolder(self.mirror.runs, planned.key).result) if outcome.state == "finished" else {}
        state, reason = (end["state"], end["reason"]) if end else outcome
        told = f": {planned.metric} {end['value']:.4f}" if end and end["value"] is not None else ""
        used = account(self.trials.trials(planned.search))
        self.console.print(
            f"[{used.counted - used.running}/{self.trials.budget.trials}] {planned.run} · trial {planned.number}: "
            f"{state} in {seconds:.1f} s{told}{f': {reason}' if reason else ''}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        self.send_trial(planned.search, planned.number)
        self.send_search(planned.search)
        self.keep()
        self.count()
        self.warn()

    def tick(self) -> None:
        """Look how far the running trials are."""
        if time.monotonic() - self.looked < REFRESH_SECONDS:
            return
        self.looked = time.monotonic()
        for key in self.bar_of.keys() - self.trials.running:  # another driver has taken them over
            self.bars.remove_task(self.bar_of.pop(key))
        for key in list(self.trials.running):
            progress = read_json(RunFolder(self.mirror.runs, key).progress)
            if progress and key in self.bar_of:
                self.bars.update(self.bar_of[key], completed=progress["epoch"])
                planned = self.trials.runs[key]
                self.send_trial(planned.search, planned.number, live=True)
        self.warn()

    def send_trial(self, key: str, number: int, *, live: bool = False) -> None:
        """Send one trial of a search as the journal has it."""
        self.mirror.send(track_trial(self.trials.searches[key], self.trials.trials(key), number), live=live)

    def send_search(self, key: str) -> None:
        """Send how far a search is, and the values that were refused in it."""
        search, trials = self.trials.searches[key], self.trials.trials(key)
        for trial in trials[self.refused.get(key, 0) :]:
            if end_of(trial)["state"] == "refused":
                self.send_trial(key, trial.number)
        self.refused[key] = len(trials)
        self.mirror.send(track_search(search, trials, complete=self.trials.complete(key)))

    def count(self) -> None:
        """Bring the bar of all trials up to date; a search that is over needs no more of them."""
        used = {key: account(self.trials.trials(key)) for key in self.trials.searches}
        counts = {key: each.counted - each.running for key, each in used.items()}
        total = sum(n if self.trials.complete(key) else self.trials.budget.trials for key, n in counts.items())
        self.bars.update(self.total, completed=sum(counts.values()), total=total)

    def warn(self) -> None:
        """Say once what is wrong with the tracking store."""
        if self.mirror.problem and self.mirror.problem != self.warned:
            self.warned = self.mirror.problem
            self.console.print(f"warning: {self.warned}; tuning goes on", markup=False, soft_wrap=True)


def tuning_table(searches: Searches, budget: Budget, used: Mapping[str, int]) -> Table:
    """Tabulate what tuning would take.

    Args:
        searches: of the study.
        budget: of each.
        used: trials that are done, by the key of their search.
    """
    table = Table(title=f"at most {budget.trials} trials and {budget.cost:g} plain trainings a method")
    table.add_column("method", overflow="fold")
    table.add_column("searched", overflow="fold")
    for column in ("trials", "done", "epochs at most", "plain trainings at most"):
        table.add_column(column, justify="right")
    totals = [0, 0, 0, 0.0]
    place = ""
    for search in searches.found:
        if search.place != place:
            place = search.place
            table.add_row(escape(place), style="bold")
        cost = search.expected(search.run)
        trials = min(budget.trials, max(1, int(budget.most / cost)))
        figures = [trials, used.get(search.key, 0), trials * search.run.recipe.epochs, trials * cost]
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        table.add_row(escape(search.text), escape(", ".join(search.space)), *map(write, figures))
    table.add_section()
    table.add_row("total", "", *map(write, totals), style="bold")
    return table


def write(figure: float) -> str:
    """Write a count, or a cost with one decimal."""
    return f"{figure:,}" if isinstance(figure, int) else f"{figure:,.1f}"
