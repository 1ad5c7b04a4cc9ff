"""Plots accuracy against the cost of training and against the cost of prediction, with Pareto fronts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.comparisons.pareto_fronts import front_column, pareto_fronts
from analysis.figures.plot_function import plot_function
from analysis.figures.style import (
    MethodStyle,
    add_legend,
    dataset_groups,
    escape_math,
    make_panels,
    method_styles,
    natural_sort_key,
    note_missing_methods,
    sample_std,
)
from analysis.frame.metric_display import Metric, describe
from analysis.frame.relative_costs import relative_costs
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, default_metric

_NEIGHBOR_OFFSET = 0.016  # log distance between neighbours of equal cost, if there is room
_MAX_OFFSET = math.log(1.04)  # maximum log distance from the true cost
_PALE_OPACITY = 0.45  # opacity of methods that are not on the front
_OUTLIER_RANGES = 5  # interquartile ranges beyond the quartiles from which a method is an outlier
_AXIS_LABELS = {"train_cost": "Training cost (× plain training;", "predict_cost": "Prediction cost (× one network;"}
_COST_TITLES = {"train_cost": "relative training cost", "predict_cost": "prediction cost"}
_FRONT = "Pareto front"


@plot_function
def accuracy_against_cost(frame: pd.DataFrame, by: str | None = None) -> Figure:
    """Plot accuracy over training cost, one panel per dataset and architecture, with the Pareto front.

    The cost is relative to plain training of one network (`relative_costs`), on a logarithmic axis. Error bars are
    sample standard deviations over seeds. Methods of equal cost, rounded to two decimals, are drawn side by side in the
    order of their names, at most 4 % from their cost. The line is the Pareto front (`pareto_fronts`), at the true
    costs: the best accuracy for each cost. Methods that are not on the front are pale. Outliers, more than five
    interquartile ranges worse than the worse quartile, are outside the axis; their names and values are written at its
    edge.

    Args:
        frame: Rows of `load_runs`.
        by: A metric other than the accuracy (for text: bits per character).

    Raises:
        LookupError: If no run has the metric, or there is no run of `sgd` to compare with.
        ValueError: If neither direction of the metric is better.
    """
    return _plot_against_cost(frame, by, "train_cost")


@plot_function
def accuracy_against_predict_cost(frame: pd.DataFrame, by: str | None = None) -> Figure:
    """Plot accuracy over prediction cost, in forward passes per example, with the Pareto front.

    Args:
        frame: Rows of `load_runs`.
        by: A metric other than the accuracy (for text: bits per character).

    Raises:
        LookupError: If no run has the metric, or the prediction costs are unknown.
        ValueError: If neither direction of the metric is better.
    """
    return _plot_against_cost(frame, by, "predict_cost")


def _plot_against_cost(frame: pd.DataFrame, by: str | None, cost: str) -> Figure:
    frame = relative_costs(ranked(frame))
    metric = describe(by or default_metric(frame))
    if metric.better is None:
        raise ValueError(f"neither direction of {metric.name!r} is better: it has no front")
    if metric.name not in frame or frame[metric.name].isna().all():
        raise LookupError(f"no run has {metric.name!r}")
    if cost not in frame:
        raise LookupError(f"no {_COST_TITLES[cost]} to plot: {' '.join(frame.attrs['notes'])}".removesuffix(": "))
    fronts = pareto_fronts(frame, metric.name).set_index([*DATASET_AND_ARCHITECTURE, "label"])[front_column(cost)]
    known = frame[frame[cost].notna() & frame[metric.name].notna()]
    look = method_styles(known)
    note = note_missing_methods(frame, set(look), f"a known {_COST_TITLES[cost]} or {metric.title}")
    figure, axes = make_panels(len(dataset_groups(known)), 2.1, [*look, _FRONT], note)
    for ax, (title, rows) in zip(axes, dataset_groups(known), strict=True):
        groups = rows.groupby("label")[[metric.name, cost]].mean()
        points = pd.DataFrame(
            {"x": _separate_equal_costs(groups[cost]), "y": groups[metric.name], "cost": groups[cost]}
        )
        points["std"] = rows.groupby("label")[metric.name].agg(sample_std)
        points["front"] = fronts.loc[tuple(rows[DATASET_AND_ARCHITECTURE].iloc[0])].reindex(points.index).astype(bool)
        _draw_panel(ax, points, look)
        _format_cost_axis(ax, points["x"])
        _exclude_outliers(ax, points, metric)
        ax.set(title=escape_math(title), xlabel=f"{_AXIS_LABELS[cost]}\nequal costs moved apart)", ylabel=metric.header)
    handles = [Line2D([], [], linestyle="", **style.line_options()) for style in look.values()]
    front = Line2D([], [], color="0.45", linewidth=0.8)
    add_legend(figure, [*handles, front], [*look, _FRONT], title=note)
    return figure


def _draw_panel(ax: Axes, points: pd.DataFrame, look: dict[str, MethodStyle]) -> None:
    """Draw the front as steps, then the points; points on the front are drawn above the pale others."""
    best = points[points["front"]].sort_values("cost")
    edge = points["x"].max() * 1.3
    steps = np.append(best["cost"], edge), np.append(best["y"], best["y"].iloc[-1])
    ax.plot(*steps, drawstyle="steps-post", color="0.45", linewidth=0.8, zorder=1.5)
    for label, x, y, std, front in points[["x", "y", "std", "front"]].itertuples():
        options = look[label].line_options() | {"alpha": 1.0 if front else _PALE_OPACITY, "zorder": 3 if front else 2}
        ax.errorbar([x], [y], None if math.isnan(std) else [std], elinewidth=0.7, capsize=1.5, **options)


def _exclude_outliers(ax: Axes, points: pd.DataFrame, metric: Metric) -> None:
    """Limit the axis so that methods far worse than the others are outside, and write their names at its edge."""
    sign = 1.0 if metric.better == "higher" else -1.0
    quality = sign * points["y"]
    finite = np.isfinite(quality)
    low, high = quality[finite].quantile([0.25, 0.75])
    far = ~finite | ((quality < low - _OUTLIER_RANGES * (high - low)) & ~points["front"] & (high > low))
    if not far.any() or far.all():
        return
    rest, std = points["y"][~far], points["std"][~far].fillna(0.0)
    span = float((rest + std).max() - (rest - std).min())
    room = 0.1 * (span or abs(float(rest.iloc[0])) or 1.0)
    worse, better = room * (1 + int(far.sum())), room
    below, above = (worse, better) if metric.better == "higher" else (better, worse)
    ax.set_ylim((rest - std).min() - below, (rest + std).max() + above)
    named = [f"{escape_math(str(label))} {metric.format_value(value)}" for label, value in points["y"][far].items()]
    arrow, y, side = ("↓", 0.03, "bottom") if metric.better == "higher" else ("↑", 0.97, "top")
    ax.text(0.98, y, f"{arrow} " + "\n".join(named), transform=ax.transAxes, fontsize=6, ha="right", va=side)


def _separate_equal_costs(cost: pd.Series[float]) -> pd.Series[float]:
    """Place methods of equal cost, rounded to two decimals, side by side around their cost on a logarithmic axis."""
    names = cost[sorted(cost.index, key=natural_sort_key)].groupby(cost.round(2))
    place = names.cumcount() - (names.transform("size") - 1) / 2
    step = (2 * _MAX_OFFSET / (names.transform("size") - 1)).clip(upper=_NEIGHBOR_OFFSET)  # infinite for a group of one
    return cost * np.exp(place * step)


def _format_cost_axis(ax: Axes, cost: pd.Series[float]) -> None:
    ax.set_xscale("log")
    low, high = float(cost.min()), float(cost.max())
    ax.set_xlim(low / 1.3, max(high, 1.2 * low) * 1.3)
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
