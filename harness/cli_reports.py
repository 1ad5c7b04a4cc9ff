"""The commands that read tracked runs: leaderboard, table, plot, report."""

import re
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
    from matplotlib.figure import Figure

    from harness.plan import Plan
    from harness.study import Study as Loaded

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


class PlotName(StrEnum):
    """What can be plotted."""

    cost = "cost"
    predict_cost = "predict-cost"
    ranks = "ranks"
    reliability = "reliability"
    members = "members"
    path = "path"
    plane = "plane"
    flatness = "flatness"
    epochs = "epochs"
    corruption = "corruption"
    tuning = "tuning"
    all = "all"


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


def is_quadratic(plan: "Plan") -> bool:
    """Say whether a plan is of the noisy quadratic problem, where there are no methods to rank."""
    from harness.quadratic_study import QuadraticStudy

    return isinstance(plan.study, QuadraticStudy)


def plot_quadratic(plan: "Plan", study: str, output: Path, store: str) -> None:
    """Draw a study of the noisy quadratic problem."""
    from analysis import load_settings, loss_against_members, save

    with refusing(f"simulate it with `econ run {study}`, or send its runs with `econ sync {study}`"):
        frame = load_settings(plan.study.name, store=store, keys=plan.runs.keys())
    frame.attrs["banner"] = plan.study.banner
    if frame.attrs["unfinished"]:
        console.print(f"{len(frame.attrs['unfinished'])} of {len(plan.runs)} settings are not finished: left out")
    with refusing():
        paths = save(loss_against_members(frame), output / plan.study.name)
    for path in paths:
        console.print(f"wrote {path}", highlight=False)


def draw_figures(study: "Loaded", frame: "pd.DataFrame") -> Iterator[tuple[str, "Figure"]]:
    """Draw the figures that a study asks for, each with its name; of what cannot be drawn, say why.

    Raises:
        LookupError: if none can be drawn.
    """
    import pandas as pd

    from analysis import FIGURES

    names = [place.name for place in study.places()]
    places = pd.Series(list(zip(frame["dataset"], frame["architecture"], frame["label"], strict=True)), frame.index)
    failed = []
    for drawing, drawn in zip(study.file.figures, study.drawn, strict=True):
        rows = frame.assign(order=places.map({names[i]: order for order, i in enumerate(drawn)}))
        rows = rows.dropna(subset="order").sort_values(["order", "seed"], ignore_index=True).drop(columns="order")
        rows.attrs = frame.attrs
        try:
            if drawing.plot not in FIGURES:
                raise LookupError(f"there is no plot {drawing.plot!r}; there are {', '.join(FIGURES)}")
            yield drawing.name, FIGURES[drawing.plot](rows, **drawing.options)
        except LookupError as error:
            failed.append(f"no figure {drawing.name or drawing.plot}: {error.args[0]}")
            console.print(failed[-1], markup=False, highlight=False, soft_wrap=True)
    if len(failed) == len(study.file.figures):
        raise LookupError("; ".join(failed))


def plot_figures(study: "Loaded", frame: "pd.DataFrame", output: Path) -> None:
    """Draw and save the figures that a study asks for."""
    from analysis import save

    with refusing():
        for name, figure in draw_figures(study, frame):
            for path in save(figure, output / "-".join(filter(None, [study.name.replace(" · ", "-"), name]))):
                console.print(f"wrote {path}", highlight=False)


def plot_tuning(plan: "Plan", study: str, output: Path, store: str) -> None:
    """Draw how a study was tuned, a figure for each dataset and architecture."""
    from analysis import load_tuning, save, tuning_history

    name = plan.study.name.removesuffix(" · tuned")
    with refusing(f"tune the study with `econ tune {study}`"):
        figures = tuning_history(load_tuning(name, store=store))
    for title, figure in figures.items():
        place = "-".join(re.findall(r"[\w.=]+", title))
        with refusing():
            paths = save(figure, output / ("tuning" if len(figures) == 1 else f"tuning-{place}"))
        for path in paths:
            console.print(f"wrote {path}", highlight=False)


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
    from analysis import compare, document, latex, render, render_paper
    from analysis import leaderboard as rank
    from harness.study import Study as Loaded

    chosen = format or SUFFIXES.get(output.suffix if output else "", TableFormat.latex)
    if standalone and chosen is not TableFormat.latex:
        raise Refusal(f"--standalone is of LaTeX, not of {chosen.value}")
    plan = make_plan(study, plugin, tuned, scale)
    frame = load_frame(plan, named(study, tuned, scale), runs, store)
    with refusing():
        if isinstance(plan.study, Loaded) and (paper := plan.study.stated()) is not None:
            text = render_paper(compare(paper, frame), chosen.value)
        elif chosen is TableFormat.latex:
            text = latex(rank(frame))
        else:
            text = render(rank(frame), Format(chosen.value).value)
    show(document(text) if standalone else text, output)


@reports.command()
def plot(
    study: Study,
    name: Annotated[PlotName, typer.Argument(help="Which plot.")] = PlotName.all,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("results"),
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
) -> None:
    """Draw a study's figures (PDF, SVG, PNG) from the tracked runs; if it names none, all plots that its runs allow."""
    from analysis import PLOTS, ranked, save
    from harness.study import Study as Loaded
    from harness.track import store_uri

    plan = make_plan(study, plugin, tuned, scale)
    if is_quadratic(plan):
        if name is not PlotName.all:
            raise Refusal(f"no plot {name.value!r} of study {plan.study.name}: it has one, `econ plot {study}`")
        plot_quadratic(plan, study, output, store_uri(store, runs))
        return
    if name is PlotName.tuning:
        plot_tuning(plan, study, output, store_uri(store, runs))
        return
    frame = load_frame(plan, named(study, tuned, scale), runs, store)
    if name is PlotName.all and isinstance(plan.study, Loaded) and plan.study.file.figures:
        plot_figures(plan.study, frame, output)
        return
    with refusing():
        frame = ranked(frame)
    if "left_out" in frame.attrs:
        console.print(frame.attrs["left_out"], markup=False, highlight=False, soft_wrap=True)
    for chosen in PLOTS if name is PlotName.all else [name.value]:
        try:
            with refusing():
                figure = PLOTS[chosen](frame)
        except Refusal as error:
            if name is not PlotName.all or not isinstance(error.__cause__, LookupError):
                raise
            console.print(f"no plot {chosen}: {error}", markup=False, highlight=False, soft_wrap=True)
            continue
        with refusing():
            paths = save(figure, output / chosen)
        for path in paths:
            console.print(f"wrote {path}", highlight=False)


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
            drawn = [Drawing(name or "Figure", figure) for name, figure in draw_figures(plan.study, frame)]
            extra.append(Section("Figures of the study", drawings=drawn))
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
