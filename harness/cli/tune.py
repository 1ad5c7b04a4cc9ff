"""`econ tune`: searches hyperparameters of a study's methods."""

import os
import socket
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.cli.options import (
    INTERRUPTED,
    Compile,
    Downloads,
    Fuse,
    Plugins,
    Refusal,
    Runs,
    Store,
    Study,
    check_runs,
    console,
    finite,
)
from harness.cli.options.engine import (
    MOST_AT_ONCE,
    Deterministic,
    Device,
    EngineName,
    EngineOptions,
    Gpus,
    PerGpu,
    Threads,
    choose_engine,
)

if TYPE_CHECKING:
    from harness.engines import Engine
    from harness.running.settings import Settings
    from harness.tracking.background_mirror import BackgroundMirror
    from harness.tracking.mlflow_mirror import Mirror
    from harness.tuning.study_searches import StudySearches
    from harness.tuning.trial_budget import Budget
    from harness.tuning.trial_schedule import TrialSchedule

SEED = 1000
"""The default seed of tuning, far from the seeds of studies, which count up from 0."""
POLL = 2.0
"""Seconds between two looks at what other drivers do."""


class MetricName(StrEnum):
    """The validation metric that tuning improves."""

    nll = "nll"
    accuracy = "accuracy"


class TuningEngine(StrEnum):
    """Where trials run. To use several machines, start the command on each, over one shared folder of runs."""

    inline = "inline"
    processes = "processes"


def tune(
    study: Study,
    trials: Annotated[int, typer.Option(min=1, help="Values to try for each method.")] = 20,
    cost: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite, help="Plain trainings that each method may use. Default: as many as trials."
        ),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Tune only the method of this label. Repeatable.")
    ] = None,
    metric: Annotated[
        MetricName,
        typer.Option(help="What decides, on validation data. The likelihood sees confidence too, and fewer ties."),
    ] = MetricName.nll,
    seed: Annotated[int, typer.Option(min=0, help="Of tuning; none of the study's.")] = SEED,
    prune: Annotated[bool, typer.Option(help="Stop trials early that do badly.")] = True,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="The file of chosen values. Default: tuned/STUDY.yaml."),
    ] = None,
    engine: Annotated[
        TuningEngine | None, typer.Option(help="Where trials run. Default: inline, or processes for several workers.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_AT_ONCE, help="Trials at once. Default: 1; processes: as for runs (econ run --help)."
        ),
    ] = None,
    threads: Threads = None,
    device: Device = None,
    gpus: Gpus = None,
    per_gpu: PerGpu = None,
    runs: Runs = Path("runs"),
    downloads: Downloads = Path("downloads"),
    store: Store = None,
    plugin: Plugins = None,
    fuse: Fuse = "auto",
    compile: Compile = "off",
    deterministic: Deterministic = False,
    checkpoint_seconds: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Least time between two checkpoints of a trial; 0: every epoch."),
    ] = 10.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be tried, and stop.")] = False,
) -> None:
    """Choose the methods' hyperparameters on validation data. Safe to stop and to repeat; the test set stays closed.

    Each method's own space is searched, and those of the methods inside it.
    What the study writes out stays, and the study's own values come first.

    Every method may use as many trials, and as much training: one whose trial
    costs three plain trainings gets a third of the trials. The study's own
    values are tried in any case.

    `econ run STUDY --tuned FILE` uses the result.
    """
    from harness.parsing.yaml_errors import StudyError
    from harness.quadratic.quadratic_study import QuadraticStudy
    from harness.studies.study import load
    from harness.studies.study_files import find_study
    from harness.tuning.study_searches import find_searches
    from harness.tuning.trial_budget import Budget

    budget = Budget(trials, float(trials) if cost is None else cost)
    try:
        loaded = load(study, plugin or [])
        if isinstance(loaded, QuadraticStudy):
            raise Refusal(f"study {loaded.name} simulates the noisy quadratic problem: it has no methods to tune")
        searches = find_searches(loaded, metric.value, seed, method or [], prune=prune)
    except (StudyError, ValueError) as error:
        raise Refusal(str(error)) from error
    print_untuned(searches)
    if dry_run or not searches.searches:
        show_plan(searches, budget, runs)
        return
    from harness.running.settings import Settings
    from harness.store.run_folder import describe_disk_error
    from harness.tracking.background_mirror import BackgroundMirror
    from harness.tracking.mlflow_store import store_uri
    from harness.tracking.progress_display import StudyStoppedError
    from harness.tuning.mlflow_trials import TuningMirror
    from harness.tuning.trial_journal import JournalError
    from harness.tuning.trial_schedule import TrialSchedule
    from harness.tuning.tuned_values_file import check_owner

    engine = engine or (TuningEngine.processes if (workers or 1) > 1 else TuningEngine.inline)
    chosen = choose_engine(EngineOptions(EngineName(engine.value), workers, threads, device, gpus, per_gpu))
    driver = f"econ tune {loaded.name}, process {os.getpid()} on {socket.gethostname()}"
    settings = Settings(
        runs,
        downloads,
        chosen.device,
        checkpoint_seconds,
        loaded.plugins,
        chosen.cores,
        driver=driver,
        fuse=fuse,
        compile=compile,
        deterministic=deterministic,
    )
    output = output or Path("tuned") / f"{loaded.name}.yaml"
    check_runs(runs)
    origin = find_study(study)
    try:
        check_owner(output, loaded.name, origin)
    except StudyError as error:
        raise Refusal(str(error)) from error
    mirror = BackgroundMirror(TuningMirror(store_uri(store, runs), loaded.name, runs))
    try:
        schedule = TrialSchedule(searches.searches, runs, budget, driver)
        writer = TunedValuesWriter(schedule, output, loaded.name, origin)
        search_all(schedule, settings, mirror, chosen.engine, writer)
    except KeyboardInterrupt:
        console.print("interrupted; trials are kept, and the same command goes on with the others")
        raise typer.Exit(INTERRUPTED) from None
    except (StudyStoppedError, JournalError, OSError) as error:
        reason = describe_disk_error(error) if isinstance(error, OSError) else str(error)
        if not reason:
            raise
        raise Refusal(f"tuning was stopped: {reason}; trials are kept, and the same command goes on") from error
    mirror.finish()
    conclude(schedule, mirror, writer, study)


class TunedValuesWriter:
    """Writes the values that a search chose to the file of tuned values as soon as the search is over."""

    def __init__(self, schedule: "TrialSchedule", path: Path, study: str, origin: Path) -> None:
        """Start with no search over.

        Args:
            schedule: the schedule of trials.
            path: the file of tuned values.
            study: the name of the study.
            origin: the study's file.
        """
        self.schedule, self.path, self.study, self.origin = schedule, path, study, origin
        self.kept: set[str] = set()

    def write(self) -> None:
        """Write the entries of the searches that are over."""
        from harness.tuning.tuned_values_file import tuned_entry, update_tuned_values

        over = [key for key in self.schedule.searches if key not in self.kept and self.schedule.is_complete(key)]
        entries = [
            tuned_entry(self.schedule.searches[key], self.schedule.trials(key), self.schedule.budget) for key in over
        ]
        self.kept.update(over)
        if found := [entry for entry in entries if entry]:
            lock = self.schedule.folder / "tuning" / "tuned.lock"
            update_tuned_values(self.path, self.study, self.origin, found, lock)


def search_all(
    schedule: "TrialSchedule",
    settings: "Settings",
    mirror: "Mirror | BackgroundMirror",
    engine: "Engine",
    writer: TunedValuesWriter,
) -> None:
    """Search until every search is over. If other drivers work on the last trials, wait for them."""
    from harness.tuning.tuning_display import TuningDisplay

    with TuningDisplay(schedule, mirror, console, writer.write) as display:
        while True:
            schedule.ensure_waiting()
            engine.run(schedule, settings, display)
            if not schedule.count_on_other_drivers():
                return
            time.sleep(POLL)


def print_untuned(searches: "StudySearches") -> None:
    """Print which methods are not tuned, and why. A reason is printed once for all datasets and architectures."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for (group, label), reason in searches.untuned.items():
        reasons.setdefault((label, reason), []).append(group)
    for (label, reason), groups in reasons.items():
        console.print(f"not tuned: {label}: {reason} ({', '.join(groups)})")


def show_plan(searches: "StudySearches", budget: "Budget", runs: Path) -> None:
    """Print how many trials tuning would take."""
    from harness.tuning.trial_budget import budget_used
    from harness.tuning.trial_journal import JournalError, read_trials
    from harness.tuning.tuning_display import tuning_table

    used = {}
    for search in searches.searches:
        try:
            used[search.key] = budget_used(read_trials(runs, search.key)).counted
        except JournalError as error:
            raise Refusal(str(error)) from error
    console.print(tuning_table(searches, budget, used))


def conclude(
    schedule: "TrialSchedule", mirror: "Mirror | BackgroundMirror", writer: TunedValuesWriter, study: str
) -> None:
    """Print what was chosen, what failed and what is not over; the last two end with exit code 1."""
    from harness.tuning.trial_budget import budget_used, default_trial
    from harness.tuning.trial_journal import trial_end

    if mirror.unsent:
        reason = mirror.problem or "it is slow to answer"
        message = (
            f"the tracking store lacks {len(mirror.unsent)} of the trials and searches: {reason}; the same command"
        )
        console.print(f"{message} sends them")
    table = Table(title=f"study {writer.study}: at most {schedule.budget.trials} trials a method")
    for column in ("method", "chosen", "validation", "as written", "trials", "cost"):
        table.add_column(column, overflow="fold")
    empty, heading = 0, ""
    for key, search in schedule.searches.items():
        trials = schedule.trials(key)
        best, used = search.best(trials), budget_used(trials)
        empty += best is None
        states = [trial_end(trial)["state"] for trial in trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        first = (
            default_trial(trials).values if trials and trial_end(default_trial(trials))["state"] == "finished" else None
        )
        if search.dataset_and_architecture != heading:
            heading = search.dataset_and_architecture
            table.add_row(heading, style="bold")
        table.add_row(
            search.expression,
            best.user_attrs["method"] if best else "nothing: no trial finished",
            f"{best.values[0]:.4f}" if best else "",
            f"{first[0]:.4f}" if first else "",
            counts,
            f"{used.cost:.1f}",
        )
    console.print(table)
    for failed_key, outcome in schedule.failed.items():
        name = f"{schedule.runs[failed_key].run}"
        console.print(f"{outcome.state}: {name}: {outcome.reason}")
    for name, problem in schedule.damaged.items():
        console.print(f"not searched: {name}: {problem}")
    unfinished = [search for key, search in schedule.searches.items() if not schedule.is_complete(key)]
    for search in unfinished:
        reason = f"{search}: its trials have not all ended, and nothing was chosen; the same command goes on"
        console.print(f"not over: {reason}")
    if writer.path.exists():
        console.print(f"wrote {writer.path}; `econ run {study} --tuned {writer.path}` uses it")
    if schedule.failed or schedule.damaged or empty or unfinished:
        raise typer.Exit(1)
