"""`econ leaderboard`: ranks the methods of a study."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    Format,
    Output,
    Plugins,
    Refusal,
    Runs,
    Scale,
    Store,
    Study,
    Tuned,
    console,
    format_by_name,
    make_plan,
    print_or_write,
    study_arguments,
)
from harness.cli.reading import load_frame, refuse_errors


def leaderboard(
    study: Study,
    format: Annotated[
        Format | None, typer.Option(help="How to write it. Default: by the end of --output's name, else text.")
    ] = None,
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

    if format is None and format_by_name(output) == "latex":
        raise Refusal(f"--output {output}: a leaderboard is written as {', '.join(Format)}; `econ table` writes LaTeX")
    chosen = format or Format(format_by_name(output) or "text")
    frame = load_frame(make_plan(study, plugin, tuned, scale), study_arguments(study, tuned, scale), runs, store)
    width = console.width if chosen is Format.text and output is None and console.is_terminal else None
    with refuse_errors():
        text = render(rank(frame, by=by), chosen.value, width=width)
    print_or_write(text, output)
