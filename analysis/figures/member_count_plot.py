"""Plots a metric against the number of ensemble members."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.plot_function import check_choice, plot_function
from analysis.figures.style import (
    add_legend,
    dataset_groups,
    draw_points,
    escape_math,
    make_panels,
    method_styles,
    sample_std,
)
from analysis.frame.metric_display import METRICS
from analysis.frame.runs import load_series, ranked

_LINE_OFFSET = 0.04  # horizontal distance between overlapping lines, in members


@plot_function
def metric_against_members(frame: pd.DataFrame, metric: Literal["accuracy", "nll", "ece"] = "accuracy") -> Figure:
    """Plot a metric of the first k members over k, one panel per dataset and architecture.

    Lines are means over seeds, error bars sample standard deviations. The lines are slightly shifted so that they do
    not overlap. Methods with a single member are left out, except plain training, which is the dashed line.

    Args:
        frame: Rows of `load_runs`; their series are loaded.
        metric: "accuracy", "nll" or "ece".

    Raises:
        LookupError: If no run has the series over more than one member.
        ValueError: For another metric.
    """
    check_choice("metric", metric, ("accuracy", "nll", "ece"))
    frame = ranked(frame)
    series = load_series(frame, f"members/{metric}")
    series = series.merge(frame[["run_id", "label", "method", "dataset", "architecture"]], on="run_id")
    many = set(series.loc[series["step"] > 1, "label"])
    if not many:
        raise LookupError(f"no run has {metric} over more than one member")
    series = series[series["label"].isin(many) | (series["method"] == "sgd")]
    look = {label: style for label, style in method_styles(frame).items() if label in set(series["label"])}
    figure, axes = make_panels(len(dataset_groups(series)), 2.0, list(look))
    for ax, (title, rows) in zip(axes, dataset_groups(series), strict=True):
        lines = [label for label in look if label in many]
        for label, curve in rows.groupby("label"):
            if label in many:
                points = curve.groupby("step")["value"]
                mean, std = points.mean(), points.agg(sample_std)
                x = mean.index.to_numpy(float) + _LINE_OFFSET * (lines.index(str(label)) - (len(lines) - 1) / 2)
                draw_points(ax, list(x), list(mean), list(std), look[str(label)], line="-")
            else:
                ax.axhline(curve["value"].mean(), color=look[str(label)].color, linestyle="--")
        last = int(rows["step"].max())
        ax.set_xticks(range(1, last + 1, math.ceil(last / 12)))
        ax.set(title=escape_math(title), xlabel="Members", ylabel=METRICS[metric].header)
    handles = [
        Line2D([], [], **style.line_options()) if label in many else Line2D([], [], color=style.color, linestyle="--")
        for label, style in look.items()
    ]
    add_legend(figure, handles, list(look))
    return figure
