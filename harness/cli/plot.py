"""`econ plot`: draws the figures of a study."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Plugins, Refusal, Runs, Scale, Store, Study, Tuned, console, make_plan, study_arguments
from harness.cli.reading import draw_figures, load_frame, refuse_errors

if TYPE_CHECKING:
    import pandas as pd

    from harness.planning.planned_runs import PlannedRuns, StudySummary

RESULTS = Path("results")


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
    return output or RESULTS / file_name(plan.study.name)


def file_name(study: str) -> str:
    """Write a study's name so that it can be a file's."""
    return study.replace(" · ", "-")


def plot_quadratic(plan: "PlannedRuns", study: str, output: Path, store: str) -> None:
    """Draw a study of the noisy quadratic problem."""
    from analysis import load_settings, loss_against_members, save

    with refuse_errors(f"simulate it with `econ run {study}`, or send its runs with `econ sync {study}`"):
        frame = load_settings(plan.study.name, store=store, keys=plan.runs.keys())
    frame.attrs["banner"] = plan.study.banner
    if frame.attrs["unfinished"]:
        console.print(f"{len(frame.attrs['unfinished'])} of {len(plan.runs)} settings are not finished: left out")
    with refuse_errors():
        paths = save(loss_against_members(frame), output / file_name(plan.study.name))
    for path in paths:
        console.print(f"wrote {path}", highlight=False)


def plot_figures(study: "StudySummary", frame: "pd.DataFrame", output: Path) -> None:
    """Draw and save the figures that a study asks for."""
    from analysis import save

    failed = []
    for name, figure in draw_figures(study, frame):
        if isinstance(figure, str):
            failed.append(figure)
            continue
        with refuse_errors():
            for path in save(figure, output / "-".join(filter(None, [file_name(study.name), name]))):
                console.print(f"wrote {path}", highlight=False)
    if failed:
        raise Refusal("\n".join(failed))


def plot_tuning(plan: "PlannedRuns", study: str, output: Path, store: str) -> None:
    """Draw how a study was tuned, a figure for each dataset and architecture."""
    from analysis import load_tuning, save, tuning_history

    name = plan.study.name.removesuffix(" · tuned")
    with refuse_errors(f"tune the study with `econ tune {study}`"):
        figures = tuning_history(load_tuning(name, store=store))
    for title, figure in figures.items():
        place = "-".join(re.findall(r"[\w.=]+", title))
        with refuse_errors():
            paths = save(figure, output / ("tuning" if len(figures) == 1 else f"tuning-{place}"))
        for path in paths:
            console.print(f"wrote {path}", highlight=False)


def plot(
    study: Study,
    name: Annotated[PlotName, typer.Argument(help="Which plot.")] = PlotName.all,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
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
    from analysis import PLOTS, ranked, save
    from analysis.frame.unfinished_runs import unfinished_notes
    from harness.tracking.mlflow_store import store_uri

    plan = make_plan(study, plugin, tuned, scale)
    if is_quadratic(plan):
        if name is not PlotName.all:
            raise Refusal(f"no plot {name.value!r} of study {plan.study.name}: it has one, `econ plot {study}`")
        plot_quadratic(plan, study, output or RESULTS, store_uri(store, runs))
        return
    if name is PlotName.tuning:
        plot_tuning(plan, study, plots_folder(plan, output), store_uri(store, runs))
        return
    frame = load_frame(plan, study_arguments(study, tuned, scale), runs, store)
    for note in unfinished_notes(frame):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if name is PlotName.all and plan.study.figures:
        plot_figures(plan.study, frame, output or RESULTS)
        return
    with refuse_errors():
        frame = ranked(frame)
    if "left_out" in frame.attrs:
        console.print(frame.attrs["left_out"], markup=False, highlight=False, soft_wrap=True)
    lost = False
    for chosen in PLOTS if name is PlotName.all else [name.value]:
        try:
            with refuse_errors():
                figure = PLOTS[chosen](frame)
        except Refusal as error:
            if name is not PlotName.all or not isinstance(error.__cause__, LookupError | FileNotFoundError):
                raise
            lost |= isinstance(error.__cause__, FileNotFoundError)
            console.print(f"no plot {chosen}: {error}", markup=False, highlight=False, soft_wrap=True)
            continue
        with refuse_errors():
            paths = save(figure, plots_folder(plan, output) / chosen)
        for path in paths:
            console.print(f"wrote {path}", highlight=False)
    if lost:
        raise typer.Exit(1)
