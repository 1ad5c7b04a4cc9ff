"""`econ plot`: draws the figures of a study."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import (
    RESULTS,
    Plugins,
    Refusal,
    Runs,
    Scale,
    Store,
    Study,
    Tuned,
    console,
    make_plan,
    results_name,
    study_arguments,
)
from harness.cli.reading import draw_figures, load_frame, refuse_errors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from harness.planning.planned_runs import PlannedRuns, StudySummary


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


def is_quadratic(plan: "PlannedRuns") -> bool:
    """Check whether a study simulates the noisy quadratic problem, which has no methods to rank."""
    return plan.study.kind == "quadratic"


def plots_folder(plan: "PlannedRuns", output: Path | None) -> Path:
    """Return the folder for a study's plots: the one asked for, else that of the study, or of the rehearsal."""
    return output or RESULTS / results_name(plan.study.name)


def save_figure(figure: "Figure", place: Path) -> None:
    """Save a figure in all formats, and say where."""
    from analysis import save

    with refuse_errors():
        for path in save(figure, place):
            console.print(f"wrote {path}")


def plot_quadratic(plan: "PlannedRuns", study: str, output: Path, store: str) -> None:
    """Draw a study of the noisy quadratic problem."""
    from analysis import load_settings, loss_against_members

    with refuse_errors(f"simulate it with `econ run {study}`, or send its runs with `econ sync {study}`"):
        frame = load_settings(plan.study.name, store=store, keys=plan.runs.keys())
    frame.attrs["banner"] = plan.study.banner
    if frame.attrs["unfinished"]:
        console.print(f"{len(frame.attrs['unfinished'])} of {len(plan.runs)} settings are not finished: left out")
    with refuse_errors():
        figure = loss_against_members(frame)
    save_figure(figure, output / results_name(plan.study.name))


def plot_figures(study: "StudySummary", frame: "pd.DataFrame", output: Path) -> None:
    """Draw and save the figures that a study asks for."""
    failed = []
    for name, figure in draw_figures(study, frame):
        if isinstance(figure, str):
            failed.append(figure)
            continue
        save_figure(figure, output / "-".join(filter(None, [results_name(study.name), name])))
    if failed:
        raise Refusal("\n".join(failed))


def plot_tuning(plan: "PlannedRuns", study: str, output: Path, store: str) -> None:
    """Draw how a study was tuned, a figure for each dataset and architecture."""
    from analysis import load_tuning, tuning_history

    name = plan.study.name.removesuffix(" · tuned")
    with refuse_errors(f"tune the study with `econ tune {study}`"):
        figures = tuning_history(load_tuning(name, store=store))
    for title, figure in figures.items():
        place = "-".join(re.findall(r"[\w.=]+", title))
        save_figure(figure, output / ("tuning" if len(figures) == 1 else f"tuning-{place}"))


def plot(
    study: Study,
    name: Annotated[PlotName, typer.Argument(help="Which plot.")] = PlotName.all,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            file_okay=False,
            help="The folder to write to. Default: results/STUDY; for figures that a study asks for, results.",
        ),
    ] = None,
    runs: Runs = Path("runs"),
    store: Store = None,
    plugin: Plugins = None,
    tuned: Tuned = None,
    scale: Scale = None,
) -> None:
    """Draw a study's figures (PDF, SVG, PNG) from the tracked runs; if it names none, all plots that its runs allow."""
    from harness.studies.study_files import find_study, own_results

    plan = make_plan(study, plugin, tuned, scale)
    if output:
        draw(plan, study, study_arguments(study, tuned, scale), name, output, runs, store)
        return
    with refuse_errors(), own_results(RESULTS, results_name(plan.study.name), find_study(study)):
        draw(plan, study, study_arguments(study, tuned, scale), name, None, runs, store)


def draw(
    plan: "PlannedRuns", study: str, arguments: str, name: PlotName, output: Path | None, runs: Path, store: str | None
) -> None:
    """Draw one plot of a study, or all.

    Args:
        plan: the plan of the study.
        study: the study as the user names it.
        arguments: the same with its options, for messages.
        name: the plot.
        output: the folder to write to; None for the usual one.
        runs: the folder of run folders.
        store: the tracking store.
    """
    from analysis import PLOTS, ranked
    from analysis.frame.unfinished_runs import unfinished_notes
    from harness.tracking.mlflow_store import store_uri

    if is_quadratic(plan):
        if name is not PlotName.all:
            raise Refusal(f"no plot {name.value!r} of study {plan.study.name}: it has one, `econ plot {study}`")
        plot_quadratic(plan, study, output or RESULTS, store_uri(store, runs))
        return
    if name is PlotName.tuning:
        plot_tuning(plan, study, plots_folder(plan, output), store_uri(store, runs))
        return
    frame = load_frame(plan, arguments, runs, store)
    for note in unfinished_notes(frame):
        console.print(note)
    if name is PlotName.all and plan.study.figures:
        plot_figures(plan.study, frame, output or RESULTS)
        return
    with refuse_errors():
        frame = ranked(frame)
    if "left_out" in frame.attrs:
        console.print(frame.attrs["left_out"])
    lost = False
    for chosen in PLOTS if name is PlotName.all else [name.value]:
        try:
            with refuse_errors():
                figure = PLOTS[chosen](frame)
        except Refusal as error:
            if name is not PlotName.all or not isinstance(error.__cause__, LookupError | FileNotFoundError):
                raise
            lost |= isinstance(error.__cause__, FileNotFoundError)
            console.print(f"no plot {chosen}: {error}")
            continue
        save_figure(figure, plots_folder(plan, output) / chosen)
    if lost:
        raise typer.Exit(1)
