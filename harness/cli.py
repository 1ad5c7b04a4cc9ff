"""The command line, `econ`. Heavy imports wait until a command needs them, so that `--help` is quick."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.cli_options import Plugins, Refusal, console, show
from harness.cli_plots import plotting
from harness.cli_reports import reports
from harness.cli_run import running
from harness.cli_tune import tuning
from harness.cli_watch import watching

app = typer.Typer(
    name="econ",
    help="Which way of ensembling a neural network is worth its cost? Train them side by side and rank them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(running)
app.add_typer(watching)
app.add_typer(tuning)
app.add_typer(reports)
app.add_typer(plotting)


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
