"""`econ table`: writes the table of a study, or of a paper beside it."""

from enum import StrEnum
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
    format_by_name,
    make_plan,
    print_or_write,
    study_arguments,
)
from harness.cli.reading import load_frame, refuse_errors


class TableFormat(StrEnum):
    """How a table is written."""

    latex = "latex"
    markdown = "markdown"
    csv = "csv"
    text = "text"


def table(
    study: Study,
    format: Annotated[
        TableFormat | None, typer.Option(help="How to write it. Default: by the end of --output's name, else LaTeX.")
    ] = None,
    output: Output = None,
    standalone: Annotated[bool, typer.Option(help="A whole document for pdflatex, not only the table.")] = False,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
) -> None:
    """Write a study's table (LaTeX, Markdown, CSV) from the tracked runs; of a paper's, its values beside ours."""
    from analysis import compare, document, label_of, latex, latex_comparisons, render, render_paper
    from analysis import leaderboard as rank

    chosen = format or TableFormat(format_by_name(output) or "latex")
    if standalone and chosen is not TableFormat.latex:
        raise Refusal(f"--standalone is of LaTeX, not of {chosen.value}")
    plan = make_plan(study, plugin, tuned, scale)
    frame = load_frame(plan, study_arguments(study, tuned, scale), runs, store)
    label = label_of(plan.study.name)  # of the study, so that one document can hold the tables of several
    with refuse_errors():
        if (paper := plan.study.published_values()) is not None:
            text = render_paper(compare(paper, frame), chosen.value, label=label)
        elif chosen is TableFormat.latex:
            board = rank(frame)
            text = "\n".join([latex(board, label=label), *latex_comparisons(board, label=label)])
        else:
            text = render(rank(frame), Format(chosen.value).value)
    print_or_write(document(text) if standalone else text, output)
