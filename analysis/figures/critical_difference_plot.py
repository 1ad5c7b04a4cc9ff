"""Draws the critical-difference diagram: average ranks of methods, and groups of methods that do not differ."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from analysis.comparisons.average_ranks import average_ranks, explain_ranks
from analysis.figures.plot_function import plot_function
from analysis.figures.style import COLUMN_WIDTH, add_legend, assign_styles, escape_math

_ROW_HEIGHT = 0.15  # inches per method
_CHARACTER_WIDTH = 0.048  # inches per character of a name
_BAR_GAP = 0.05  # inches between bars
_NOTE_LENGTH = 52  # characters per line below a diagram of one column
_MIN_AXIS_WIDTH = 0.9  # minimum inches of the axis of ranks


@plot_function
def critical_difference_diagram(frame: pd.DataFrame, by: str | None = None) -> Figure:
    """Draw the average ranks of methods over all datasets and architectures, and connect methods that do not differ.

    A row is a method, the best at the top; its point is its average rank (`average_ranks`). Each bar on the right
    connects a largest group of neighbours that do not differ by the critical difference, which is drawn at the top.
    (The usual form, with names on both sides of one axis, has no room for more than about ten methods in a column.)

    Args:
        frame: Rows of `load_runs`.
        by: The metric to rank by; None for the metric of a leaderboard.

    Raises:
        LookupError: If there are fewer than six datasets × architectures, or fewer than three methods in all of them.
        ValueError: If no run has the metric, or neither of its directions is better.

    References:
        Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006, section 3.2.4.
    """
    ranks = average_ranks(frame, by)
    labels = ranks["label"].tolist()
    bars = [group for group in ranks.attrs["groups"] if len(group) > 1]
    names, right = _CHARACTER_WIDTH * max(map(len, labels)) + 0.1, _BAR_GAP * len(bars) + 0.1
    width = max(COLUMN_WIDTH, names + _MIN_AXIS_WIDTH + right)
    note = textwrap.fill(explain_ranks(ranks), int(_NOTE_LENGTH * width / COLUMN_WIDTH), break_on_hyphens=False)
    height = 0.6 + _ROW_HEIGHT * len(labels) + 0.12 * (note.count("\n") + 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    _draw_ranks(ax, ranks)
    inside = width - names - right
    for i, group in enumerate(bars):
        ends = [labels.index(group[0]) - 0.25, labels.index(group[-1]) + 0.25]
        x = 1 + _BAR_GAP * (i + 1.5) / inside
        ax.plot([x, x], ends, transform=ax.get_yaxis_transform(), color="0.2", linewidth=1.8, clip_on=False)
    add_legend(figure, [], [], title=escape_math(note))
    return figure


def _draw_ranks(ax: Axes, ranks: pd.DataFrame) -> None:
    """Draw the points, and the critical difference as a bar above them."""
    labels, values = ranks["label"].tolist(), ranks["average_rank"].to_numpy()
    rows, look = np.arange(len(labels)), assign_styles(labels)
    low, high = values.min(), values.max()
    distance = float(ranks.attrs["critical_difference"])
    margin = 0.06 * max(high - low, distance)
    ax.hlines(rows, low - margin, values, color="0.75", linewidth=0.6, zorder=1)
    for row, label, value in zip(rows, labels, values, strict=True):
        ax.plot([value], [row], linestyle="", zorder=3, **look[label].line_options())
    ax.set(xlim=(low - margin, max(high, low + distance) + margin), ylim=(len(labels) - 0.4, -0.6))
    ax.set_yticks(rows, [escape_math(label) for label in labels], fontsize=6)
    ax.tick_params(axis="y", length=0, pad=2)
    ax.grid(visible=False, axis="y")
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", labelsize=6.5, pad=1)
    if ranks.attrs["p"] < ranks.attrs["alpha"]:
        place = offset_copy(ax.get_xaxis_transform(), ax.get_figure(root=True), y=0.3, units="inches")
        above: dict[str, Any] = {"transform": place, "clip_on": False}
        ax.plot([low, low + distance], [1, 1], color="0.2", linewidth=1.2, marker="|", markersize=4, **above)
        name = f"CD = {distance:.2f}"
        ax.annotate(
            name, (low + distance / 2, 1), (0, 2), place, "offset points", fontsize=6.5, ha="center", va="bottom"
        )
