"""The command line, `econ`. Heavy imports wait until a command needs them, so that `--help` is quick."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli_options import Plugins, Refusal, Runs, Store, Study, console, make_plan, show
from harness.cli_reports import reports
from harness.cli_run import running

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="econ",
    help="Which way of ensembling a neural network is worth its cost? Train them side by side and rank them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(running)
app.add_typer(reports)


class Form(StrEnum):
    """How methods are listed."""

    text = "text"
    markdown = "markdown"


class Listing(StrEnum):
    """What can be listed."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    studies = "studies"


def main() -> None:
    """Run the command line: a mistake of the user's gets a message, never a traceback."""
    try:
        app()
    except Refusal as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


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
            unit = progress.get("unit", "epoch")
            detail = f"{unit} {progress['epoch']} of {progress['epochs']}" if progress else ""
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
    from harness.track import Mirror, store_uri

    plan = make_plan(study, plugin, share=True)
    mirror = Mirror(store_uri(store, runs), plan.study.name, runs)
    mirror.open()
    started = [planned for key, planned in plan.runs.items() if RunFolder(runs, key).spec.exists()]
    for planned in track(started, "sending", console=console, disable=not console.is_terminal):
        mirror.send(planned)
    if mirror.problem:
        raise Refusal(f"{mirror.problem}; {len(mirror.unsent)} of {len(started)} runs were not sent")
    sent = sum(planned.role != "trunk" for planned in started)
    console.print(f"{sent} runs of study {plan.study.name} are in {mirror.store}", highlight=False)


@app.command("list")
def list_(
    what: Listing,
    format: Annotated[Form, typer.Option(help="How methods are written.")] = Form.text,
    plugin: Plugins = None,
) -> None:
    """List the methods, with their hyperparameters and costs, or the models, datasets or studies there are."""
    from harness import listing

    if what is Listing.methods:
        try:
            if format is Form.markdown:
                show(listing.methods_as_markdown(plugin or []), None)
            else:
                show(listing.methods(plugin or [], min(console.width, listing.WIDTH)), None)
        except (ValueError, FileNotFoundError) as error:
            raise Refusal(str(error)) from error
        return
    if format is Form.markdown:
        raise Refusal("--format markdown: only methods are listed so")
    rows = listing.LISTINGS[what.value]()
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
