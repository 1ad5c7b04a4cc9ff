"""Plots how much accuracy methods lose under each corruption, compared with plain training."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.plot_function import plot_function
from analysis.figures.style import (
    COLUMN_WIDTH,
    add_legend,
    assign_styles,
    dataset_groups,
    escape_math,
    method_styles,
    wrap_label,
)
from analysis.frame.relative_costs import find_plain_training
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE

CHANGE_PREFIXES = ("relative_change/", "generated/relative_change/")
"""Prefixes of columns: for the official corrupted files, and for corruptions that were generated locally instead."""
_DIAGRAMS_PER_ROW = 3
_TITLE_DENSITY = 18  # characters of the legend's title per inch


@plot_function
def change_under_corruption(frame: pd.DataFrame) -> Figure:
    """Plot relative changes of the accuracy compared with those of plain training, one small diagram per method.

    The relative change is (b − a) / a, for the accuracy a on clean data and b under a corruption of severity 3. A bar
    is the mean over seeds of a method's change minus plain training's change with the same seed; its line is the sample
    standard deviation. A bar to the right means that the method loses less accuracy.

    Args:
        frame: Rows of `load_runs`.

    Raises:
        LookupError: If no run was measured under corruptions, or no run of plain training was.
    """
    frame = ranked(frame)
    prefix, names = relative_change_columns(frame)
    kind = "" if prefix == CHANGE_PREFIXES[0] else " (generated corruptions)"
    return draw_differences(frame, names, f"Relative change of accuracy{kind}, minus plain training's")


def draw_differences(frame: pd.DataFrame, names: list[str], title: str) -> Figure:
    """Draw columns minus those of plain training as bars.

    There is a diagram per method, and a colour per dataset and architecture.

    Args:
        frame: Rows of `load_runs` with the columns.
        names: The columns; the part after the last slash is the corruption.
        title: The title of the legend, which describes the bars.

    Raises:
        LookupError: As `subtract_plain_training` does.
    """
    table = subtract_plain_training(frame, names)
    groups = dataset_groups(table)
    labels = [label for label in method_styles(frame) if label in set(table["label"])]
    colors = {title: style.color for title, style in assign_styles([title for title, _ in groups]).items()}
    across = min(_DIAGRAMS_PER_ROW, len(labels))
    down = -(-len(labels) // across)
    bar = 0.075 * len(groups) + 0.06
    width = COLUMN_WIDTH * (1 + across) / (1 + _DIAGRAMS_PER_ROW)
    lines = textwrap.wrap(title, int(_TITLE_DENSITY * width))
    height = down * (bar * len(names) + 0.5) + 0.24 + 0.16 * (len(groups) + len(lines))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for ax, label in zip(axes.flat, labels, strict=False):
        for i, (cell, rows) in enumerate(groups):
            offset = (i - (len(groups) - 1) / 2) * 0.8 / len(groups)
            _draw_bars(ax, rows[rows["label"] == label][names], offset, 0.8 / len(groups), colors[cell])
        _finish_diagram(ax, label, [name.rpartition("/")[2] for name in names])
    for ax in axes.flat[len(labels) :]:
        ax.remove()
    handles = [Line2D([], [], color=color, linewidth=4) for color in colors.values()]
    add_legend(figure, handles, list(colors), title="\n".join(lines))
    return figure


def relative_change_columns(frame: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the prefix and names of the columns with relative changes.

    They are those of the official corruptions if there are any, else those of generated corruptions.

    Raises:
        LookupError: If there are neither.
    """
    for prefix in CHANGE_PREFIXES:
        names = [name for name in frame.columns if name.startswith(prefix) and frame[name].notna().any()]
        if names:
            return prefix, names
    raise LookupError("no run has relative changes of its accuracy under corruptions")


def subtract_plain_training(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Subtract from each run's columns those of plain training with the same dataset, architecture and seed.

    Raises:
        LookupError: If no dataset and architecture has exactly one entry of plain training with the seeds of the
        others.
    """
    baselines = pd.concat([find_plain_training(rows)[0] for _, rows in frame.groupby(DATASET_AND_ARCHITECTURE)])
    keys = [*DATASET_AND_ARCHITECTURE, "seed"]
    both = frame[frame["method"] != "sgd"].merge(baselines[[*keys, *names]], on=keys, suffixes=("", " plain"))
    if both.empty:
        raise LookupError("no method has a finished run of sgd with the same seed to compare with")
    for name in names:
        both[name] = both[name] - both[f"{name} plain"]
    return both


def _draw_bars(ax: Axes, runs: pd.DataFrame, offset: float, height: float, color: tuple[float, float, float]) -> None:
    if runs.empty:
        return
    places = np.arange(len(runs.columns)) + offset
    std = runs.std(ddof=1) if len(runs) > 1 else None
    ax.barh(places, runs.mean(), height, xerr=std, color=color, error_kw={"elinewidth": 0.6, "ecolor": "0.25"})


def _finish_diagram(ax: Axes, label: str, corruptions: list[str]) -> None:
    ax.axvline(0, color="0.3", linewidth=0.6)
    ax.set_yticks(range(len(corruptions)), [name.replace("_", " ") for name in corruptions], fontsize=6)
    ax.set_ylim(len(corruptions) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(axis="x", labelsize=6, labelbottom=True)
    ax.grid(visible=False, axis="y")
    ax.set_title(escape_math(wrap_label(label)), fontsize=6.5, pad=3)
