"""The commands that read tracked runs: leaderboard, table, report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from harness.cli_options import (
    Output,
    Plugins,
    Refusal,
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

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Plan

reports = typer.Typer()


class Format(StrEnum):
    """How a leaderboard is written."""

    text = "text"
    csv = "csv"
    markdown = "markdown"


class TableFormat(StrEnum):
    """How a table is written."""

    latex = "latex"
    markdown = "markdown"
    csv = "csv"
    text = "text"


SUFFIXES = {".tex": TableFormat.latex, ".md": TableFormat.markdown, ".csv": TableFormat.csv, ".txt": TableFormat.text}


@contextmanager
def refusing(hint: str = "") -> Iterator[None]:
    """Turn what analysis cannot do into a message.

    Args:
        hint: what the user can do about it.
    """
    try:
        yield
    except (LookupError, OSError, ValueError) as error:
        reason = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
        raise Refusal(f"{reason}; {hint}" if hint else reason) from error


def load_frame(plan: "Plan", study: str, runs: Path, store: str | None) -> "pd.DataFrame":
    """Load a study's tracked cells, with the labels that the study gives them today.

    Args:
        plan: of the study.
        study: as the arguments of a command, for messages.
        runs: the folder of run folders.
        store: the tracking store.
    """
    from analysis import load_runs
    from harness.study import Study
    from harness.track import store_uri

    if not isinstance(plan.study, Study):
        raise Refusal(f"study {plan.study.name} simulates the noisy quadratic problem: `econ plot {study}` draws it")
    labels = {key: planned.labels for key, planned in plan.runs.items() if planned.role == "cell"}
    with refusing(f"train the study with `econ run {study}`, or send its runs with `econ sync {study}`"):
        frame = load_runs(plan.study.name, store=store_uri(store, runs), keys=labels)
    frame["label"] = frame["key"].map(labels)
    whole = frame.explode("label", ignore_index=True)  # a method may stand in the study under several names
    missing = [
        cell | name_missing(plan, cell["key"]) for cell in frame.attrs["unfinished"] if cell["state"] == "missing"
    ]
    unfinished = [cell for cell in frame.attrs["unfinished"] if cell["state"] != "missing"] + missing
    said = {"tuning": plan.study.caption, "description": plan.study.file.description, "banner": plan.study.banner}
    whole.attrs = frame.attrs | said | {"unfinished": unfinished}
    return whole


def name_missing(plan: "Plan", key: str) -> dict[str, str]:
    """Say which cell it is that no run is tracked of."""
    planned = plan.runs[key]
    tags = planned.run.tags()
    return {"label": planned.label, **{name: tags[name] for name in ("architecture", "dataset", "seed")}}


@reports.command()
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


@reports.command()
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
    from harness.study import Study as Loaded

    chosen = format or SUFFIXES.get(output.suffix if output else "", TableFormat.latex)
    if standalone and chosen is not TableFormat.latex:
        raise Refusal(f"--standalone is of LaTeX, not of {chosen.value}")
    plan = make_plan(study, plugin, tuned, scale)
    frame = load_frame(plan, named(study, tuned, scale), runs, store)
    label = label_of(plan.study.name)  # of the study, so that one document can hold the tables of several
    with refusing():
        if isinstance(plan.study, Loaded) and (paper := plan.study.stated()) is not None:
            text = render_paper(compare(paper, frame), chosen.value, label=label)
        elif chosen is TableFormat.latex:
            board = rank(frame)
            text = "\n".join([latex(board, label=label), *latex_comparisons(board, label=label)])
        else:
            text = render(rank(frame), Format(chosen.value).value)
    show(document(text) if standalone else text, output)


@reports.command()
def report(
    study: Study,
    by: Annotated[
        str | None, typer.Option(help="The metric to rank by. Default: accuracy, or of text bits per character.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write. Default: results/STUDY/report.html.")
    ] = None,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
) -> None:
    """Write a study's report, one web page with leaderboards, costs, plots and every run's provenance."""
    from analysis import Drawing, Section, beside_paper, compare
    from analysis import report as write
    from harness.study import Study as Loaded

    plan = make_plan(study, plugin, tuned, scale)
    frame = load_frame(plan, named(study, tuned, scale), runs, store)
    place = Path("results", plan.study.name.replace(" · ", "-"), "report.html")
    assert isinstance(plan.study, Loaded)  # `load_frame` refuses others
    extra = []
    with refusing(), telling() as tell:
        if (paper := plan.study.stated()) is not None:
            extra.append(beside_paper(compare(paper, frame)))
        if plan.study.file.figures:
            from harness.cli_plots import draw_figures

            figures = list(draw_figures(plan.study, frame))
            drawn = [Drawing(name or "Figure", figure) for name, figure in figures if not isinstance(figure, str)]
            undrawn = [reason for _, reason in figures if isinstance(reason, str)]
            extra.append(Section("Figures of the study", drawings=drawn, notes=undrawn))
        text = write(frame, by=by, extra=extra, tell=tell)
    show(text, output or place)


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Give what tells about long work: in place on a terminal, else a line each."""
    if not console.is_terminal:
        yield lambda line: console.print(line, markup=False, highlight=False)
        return
    with console.status("") as status:
        yield lambda line: status.update(escape(line))
