"""Plots metrics side by side, with one row per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.plot_function import check_metrics_present, check_name_list, plot_function
from analysis.figures.style import (
    COLUMN_WIDTH,
    MethodStyle,
    dataset_groups,
    escape_math,
    method_styles,
    wrap_label,
)
from analysis.frame.metric_display import describe
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import summarize

_LINE_HEIGHT = 0.115  # inches per line of a method's name
_MAX_METRICS_IN_COLUMN = 2  # metrics that fit beside the names in one column
_ROW_GAP = 0.06  # inches between two names
_LONG = 30  # characters of a name that fit beside the panels on two columns


@plot_function
def metric_by_method(
    frame: pd.DataFrame,
    *,
    metrics: Sequence[str] = ("accuracy",),
    order: Sequence[str] | None = None,
    chosen_on_test: bool = False,
) -> Figure:
    """Plot metrics as dots, with a row for each method and a panel for each metric, dataset and architecture.

    Dots are means over seeds, error bars sample standard deviations; the dotted line is plain training.

    Args:
        frame: Rows of `load_runs`.
        metrics: Columns of the frame.
        order: Labels from top to bottom; None for the order of the frame.
        chosen_on_test: Also show the runs that were chosen on test data, marked as such.

    Raises:
        LookupError: If no run has a metric, or a label has no finished run.
        ValueError: If the order names a label twice, or the frame mixes rows that must not be in one plot.
    """
    metrics = check_name_list("metrics", metrics)
    frame = frame if chosen_on_test else ranked(frame)
    labels = _ordered_labels(frame, order)
    table = summarize(frame)
    check_metrics_present(table, metrics)
    on_test = set(frame.loc[frame["chosen_on"] == "test", "label"]) if "chosen_on" in frame else set()
    narrow = len(metrics) <= _MAX_METRICS_IN_COLUMN
    names = {
        label: wrap_label(label, 17 if narrow else 30) + ("\n(chosen on test)" if label in on_test else "")
        for label in labels
    }
    parts = [(title, rows, _labels_with_metrics(rows, labels, metrics)) for title, rows in dataset_groups(table)]
    parts = [(title, rows, present) for title, rows, present in parts if present]
    heights = [sum(_row_height(names[label]) for label in present) for _, _, present in parts]
    figure = Figure(
        figsize=(COLUMN_WIDTH if narrow else 2 * COLUMN_WIDTH, sum(heights) + 0.5 * len(parts) + 0.1),
        layout="constrained",
    )
    axes = figure.subplots(len(parts), len(metrics), sharey="row", squeeze=False, height_ratios=heights)
    look = method_styles(frame)
    for line, (title, rows, present) in zip(axes, parts, strict=True):
        for ax, metric in zip(line, metrics, strict=True):
            _draw_panel(ax, rows.set_index("label"), {label: names[label] for label in present}, metric, look)
        line[0].set_title(escape_math(title), loc="left")
    return figure


def _ordered_labels(frame: pd.DataFrame, order: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(frame["label"]))
    if order is None:
        return known
    for label in check_name_list("order", order):
        if label not in known:
            raise LookupError(f"no finished run of {label!r}; there are: {', '.join(known)}")
    if len(set(order)) < len(order):
        raise ValueError(f"order names a label twice: {', '.join(order)}")
    return list(order)


def _labels_with_metrics(rows: pd.DataFrame, labels: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Return the labels that have one of the metrics for a dataset and architecture."""
    there = rows.loc[rows[[f"{metric}_mean" for metric in metrics]].notna().any(axis=1), "label"]
    return [label for label in labels if label in set(there)]


def _row_height(name: str) -> float:
    return _LINE_HEIGHT * (1 + name.count("\n")) + _ROW_GAP


def _draw_panel(
    ax: Axes, rows: pd.DataFrame, names: Mapping[str, str], metric: str, look: Mapping[str, MethodStyle]
) -> None:
    heights = [_row_height(name) for name in names.values()]
    places = np.cumsum(heights) - np.array(heights) / 2  # each row as high as its name
    means, stds = rows[f"{metric}_mean"].astype(float), rows[f"{metric}_std"].astype(float)
    for label, place, mean, std in zip(names, places, means[list(names)], stds[list(names)], strict=True):
        if not np.isnan(mean):
            bar = None if np.isnan(std) else [std]
            ax.errorbar(
                [mean], [place], xerr=bar, linestyle="", elinewidth=0.8, capsize=1.5, **look[label].line_options()
            )
    level = rows.loc[rows["method"] == "sgd", f"{metric}_mean"]
    if len(level) == 1 and level.notna().all():
        ax.axvline(level.iloc[0], color="black", linestyle=":", linewidth=0.8, zorder=0.5)
    ax.set_yticks(places, [escape_math(name) for name in names.values()], fontsize=6.5)
    ax.set_ylim(sum(heights), 0)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(axis="x", labelsize=6.5)
    ax.set_xlabel(describe(metric).header, fontsize=7)
