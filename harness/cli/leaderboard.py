"""`econ leaderboard`: ranks the methods of a study."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    Output,
    Plugins,
    Runs,
    Scale,
    Store,
    Study,
    Tuned,
    console,
    make_plan,
    named,
    show,
)
from harness.cli.reading import load_frame, refusing


class Format(StrEnum):
    """How a leaderboard is written."""

    text = "text"
    csv = "csv"
    markdown = "markdown"


def leaderboard(
    study: Study,
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.text,
    by: Annotated[
        str | None, typer.Option(help="The metric to rank by. Default: accuracy, or of text bits per character.")
    ] = None,
    output: Output = None,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
) -> None:
    """Rank a study's methods, with their cost, from the tracked runs."""
    from analysis import leaderboard as rank
    from analysis import render

    frame = load_frame(make_plan(study, plugin, tuned, scale), named(study, tuned, scale), runs, store)
    width = console.width if format is Format.text and output is None and console.is_terminal else None
    with refusing():
        text = render(rank(frame, by=by), format.value, width=width)
    show(text, output)
