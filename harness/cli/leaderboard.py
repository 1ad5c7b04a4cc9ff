"""`econ leaderboard`: ranks the methods of a study."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    Format,
    Output,
    Plugins,
    Runs,
    Scale,
    Store,
    Study,
    Tuned,
    console,
    make_plan,
    print_or_write,
    study_arguments,
)
from harness.cli.reading import load_frame, refuse_errors


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

    frame = load_frame(make_plan(study, plugin, tuned, scale), study_arguments(study, tuned, scale), runs, store)
    width = console.width if format is Format.text and output is None and console.is_terminal else None
    with refuse_errors():
        text = render(rank(frame, by=by), format.value, width=width)
    print_or_write(text, output)
