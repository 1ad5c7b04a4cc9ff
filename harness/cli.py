"""The command line, `econ`. Heavy imports wait until a command needs them, so that `--help` is quick."""

import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Plan

app = typer.Typer(
    name="econ",
    help="Which way of ensembling a neural network is worth its cost? Train them side by side and rank them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(soft_wrap=False)
INTERRUPTED = 130


class EngineName(StrEnum):
    """Where runs are executed."""

    inline = "inline"
    processes = "processes"


class Listing(StrEnum):
    """What can be listed."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    studies = "studies"


class Format(StrEnum):
    """How a leaderboard is written."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    html = "html"


class PlotName(StrEnum):
    """What can be plotted."""

    cost = "cost"
    reliability = "reliability"
    members = "members"
    all = "all"


Study = Annotated[str, typer.Argument(help="A study's name (see `econ list studies`), or the path of its YAML file.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with methods of your own; they join the study. Repeatable."),
]
Runs = Annotated[Path, typer.Option(help="The folder of run folders.")]
Store = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI. Default: $MLFLOW_TRACKING_URI, else sqlite:///RUNS/mlflow.db."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead of the terminal.")]


class Refusal(Exception):  # noqa: N818 - what a user reads, no failure of the program
    """Something the user can mend; its message says what and where."""


def main() -> None:
    """Run the command line: a mistake of the user's gets a message, never a traceback."""
    try:
        app()
    except Refusal as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def make_plan(study: str, plugins: list[Path] | None) -> "Plan":
    """Read a study and expand it."""
    from harness.places import StudyError
    from harness.plan import Plan
    from harness.study import load

    try:
        return Plan(load(study, plugins or []))
    except StudyError as error:
        raise Refusal(str(error)) from error


@app.command()
def run(
    study: Study,
    engine: Annotated[EngineName, typer.Option(help="One run after another, or several at once.")] = EngineName.inline,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes at once. Default: one a core.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads a process. Default: the cores, shared out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 … Default: cuda if there is one.")] = None,
    runs: Runs = Path("runs"),
    downloads: Annotated[Path, typer.Option(help="The folder of datasets.")] = Path("downloads"),
    store: Store = None,
    plugin: Plugins = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Least time between two checkpoints of a run; 0: every epoch.")
    ] = 10.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
) -> None:
    """Train what is left of a study. Safe to stop and to repeat: finished runs are skipped, others resume."""
    plan = make_plan(study, plugin)
    finished = plan.finished(runs)
    for warning in sorted({planned.warning for planned in plan.runs.values() if planned.warning}):
        console.print(f"warning: {warning}", markup=False)
    if dry_run:
        from harness.watch import plan_table

        console.print(plan_table(plan, finished))
        return
    import torch

    from harness.engines import make_engine
    from harness.execute import Settings
    from harness.plan import Schedule
    from harness.track import Mirror, default_store
    from harness.watch import Show

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 1 if engine is EngineName.inline else workers or cores
    threads = threads or max(1, cores // workers)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    settings = Settings(runs, downloads, device, checkpoint_seconds, plan.study.plugins)
    mirror = Mirror(store or default_store(runs), plan.study.name, runs)
    mirror.open()
    schedule = Schedule(plan.runs, finished)
    for key in finished:
        mirror.send(plan.runs[key])
    try:
        with Show(plan, schedule, mirror, console) as show:
            make_engine(engine.value, workers, threads).run(schedule, settings, show)
    except KeyboardInterrupt:
        console.print("interrupted; finished runs are kept, and the same command goes on with the others")
        raise typer.Exit(INTERRUPTED) from None
    conclude(plan, schedule.failed, mirror.unsent, study)


def check_device(device: str) -> None:
    """Refuse a device that is not there."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Refusal(f"--device {device}: {str(error).splitlines()[0]}") from error


def conclude(plan: "Plan", failed: Mapping[str, tuple[str, str]], unsent: set[str], study: str) -> None:
    """Say how a study ended; a failure is an exit code other than 0."""
    if unsent:
        console.print(
            f"{len(unsent)} runs are not in the tracking store yet; `econ sync {study}` sends them", highlight=False
        )
    if not failed:
        console.print(f"study {plan.study.name}: all {len(plan.runs)} runs are finished")
        return
    table = Table(title=f"{len(failed)} of {len(plan.runs)} runs did not finish", show_lines=True)
    for column in ("run", "state", "reason", "folder"):
        table.add_column(column, overflow="fold")
    for key, (state, reason) in failed.items():
        table.add_row(escape(str(plan.runs[key].run)), state, escape(reason), key[:12])
    console.print(table)
    raise typer.Exit(1)


@app.command()
def status(study: Study, runs: Runs = Path("runs"), plugin: Plugins = None) -> None:
    """Show how far a study is."""
    from harness.folder import RunFolder, read_json

    plan = make_plan(study, plugin)
    table = Table(title=f"study {plan.study.name}")
    for column in ("run", "state", "detail"):
        table.add_column(column, overflow="fold")
    counts = dict.fromkeys(("finished", "running", "stopped", "failed", "to do"), 0)
    for key, planned in plan.runs.items():
        folder = RunFolder(runs, key)
        state, detail = "to do", ""
        if folder.finished:
            state = "finished"
        elif failure := read_json(folder.failure):
            state, detail = "failed", failure["reason"]
        elif folder.checkpoint.exists() or folder.progress.exists():
            progress = read_json(folder.progress)
            state = "running" if folder.locked() else "stopped"
            detail = f"epoch {progress['epoch']} of {progress['epochs']}" if progress else ""
        elif folder.locked():
            state = "running"
        counts[state] += 1
        if state not in ("finished", "to do"):
            table.add_row(escape(str(planned.run)), state, escape(detail))
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if table.rows:
        console.print(table)


@app.command()
def sync(study: Study, runs: Runs = Path("runs"), store: Store = None, plugin: Plugins = None) -> None:
    """Send to MLflow what it does not have of a study's run folders."""
    from rich.progress import track

    from harness.folder import RunFolder
    from harness.track import Mirror, default_store

    plan = make_plan(study, plugin)
    mirror = Mirror(store or default_store(runs), plan.study.name, runs)
    mirror.open()
    started = [planned for key, planned in plan.runs.items() if RunFolder(runs, key).spec.exists()]
    for planned in track(started, "sending", console=console, disable=not console.is_terminal):
        mirror.send(planned)
    if mirror.problem:
        raise Refusal(f"{mirror.problem}; {len(mirror.unsent)} of {len(started)} runs were not sent")
    console.print(f"{len(started)} runs of study {plan.study.name} are in {mirror.store}", highlight=False)


def load_frame(study: str, runs: Path, store: str | None, plugins: list[Path] | None) -> "pd.DataFrame":
    """Load a study's tracked cells."""
    from analysis import load_runs
    from harness.track import default_store

    plan = make_plan(study, plugins)
    keys = [key for key, planned in plan.runs.items() if planned.role == "cell"]
    try:
        return load_runs(plan.study.name, store=store or default_store(runs), keys=keys)
    except (FileNotFoundError, LookupError, ValueError) as error:
        raise Refusal(f"{error.args[0]}; train the study with `econ run {study}`, or `econ sync {study}`") from error


def show(text: str, output: Path | None) -> None:
    """Write text to a file or to the terminal."""
    if output is None:
        print(text.rstrip("\n"))
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    console.print(f"wrote {output}", highlight=False)


@app.command()
def leaderboard(
    study: Study,
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.text,
    by: Annotated[str, typer.Option(help="The metric to rank by.")] = "accuracy",
    output: Output = None,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
) -> None:
    """Rank a study's methods, with their cost, from the tracked runs."""
    from analysis import leaderboard as rank
    from analysis import render

    frame = load_frame(study, runs, store, plugin)
    width = console.width if format is Format.text and output is None and console.is_terminal else None
    try:
        text = render(rank(frame, by=by), format.value, width=width)
    except ValueError as error:
        raise Refusal(str(error)) from error
    show(text, output)


@app.command()
def table(
    study: Study,
    output: Output = None,
    standalone: Annotated[bool, typer.Option(help="A whole document for pdflatex, not only the table.")] = False,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
) -> None:
    """Write a study's LaTeX table (booktabs) from the tracked runs."""
    from analysis import document, latex
    from analysis import leaderboard as rank

    text = latex(rank(load_frame(study, runs, store, plugin)))
    show(document(text) if standalone else text, output)


@app.command()
def plot(
    study: Study,
    name: Annotated[PlotName, typer.Argument(help="Which plot.")] = PlotName.all,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("results"),
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
) -> None:
    """Draw a study's plots (PDF, SVG, PNG) from the tracked runs."""
    from analysis import PLOTS, save

    frame = load_frame(study, runs, store, plugin)
    for chosen in PLOTS if name is PlotName.all else [name.value]:
        for path in save(PLOTS[chosen](frame), output / chosen):
            console.print(f"wrote {path}", highlight=False)


@app.command("list")
def list_(what: Listing, plugin: Plugins = None) -> None:
    """List the methods, models, datasets or studies there are."""
    from harness import listing

    try:
        rows = listing.methods(plugin or []) if what is Listing.methods else listing.LISTINGS[what.value]()
    except (ValueError, FileNotFoundError) as error:
        raise Refusal(str(error)) from error
    listed = Table(show_header=False, box=None)
    listed.add_column(overflow="fold")
    listed.add_column(overflow="fold")
    for name, description in rows:
        listed.add_row(escape(name), escape(description))
    console.print(listed)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name in snake_case; studies will use it.")],
    into: Annotated[Path, typer.Option(help="The folder to write to.")] = Path(),
) -> None:
    """Write a small working method of your own, and its test, as a start."""
    from harness.new_method import files

    try:
        written = files(name)
    except ValueError as error:
        raise Refusal(str(error)) from error
    taken = [file for file in written if (into / file).exists()]
    if taken:
        raise Refusal(f"{into / taken[0]} is there already; nothing was written")
    for file, text in written.items():
        show(text, into / file)
    console.print(f"try: econ run digits --plugin {into / name}.py, then python -m pytest {into}", highlight=False)


if __name__ == "__main__":
    main()
