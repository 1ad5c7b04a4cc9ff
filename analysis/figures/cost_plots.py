"""What accuracy costs, in training and in prediction, with the fronts of what is worth its cost."""

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
    escape_math,
    make_panels,
    method_styles,
    natural_sort_key,
    note_missing_methods,
    sample_std,
    dataset_groups,
)
from analysis.frame.metric_display import Metric, describe
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, default_metric, relative_costs

_NEIGHBOR_OFFSET = 0.016  # logarithm of the factor between neighbours of the same cost, if there is room
_MAX_OFFSET = math.log(1.04)  # that of how far one may be moved
_PALE_OPACITY = 0.45  # opacity of what is not on the front
_OUTLIER_RANGES = 5  # interquartile ranges below the quartiles from which a point leaves the others no room
_AXIS_LABELS = {"train_cost": "Training cost (× plain training;", "predict_cost": "Prediction cost (× one network;"}
_COST_TITLES = {"train_cost": "relative training cost", "predict_cost": "prediction cost"}
_FRONT = "Pareto front"


@plot_function
def accuracy_against_cost(frame: pd.DataFrame, by: str | None = None) -> Figure:
    """Plot accuracy over training cost, one panel a dataset and architecture, with its Pareto front.

    The cost is relative to plain training of one network (`relative_costs`), on a logarithmic axis; bars are the sample
    standard deviation over seeds. Methods of the same cost, to two decimals, are moved apart in the order of their
    names, none by more than 4 %. The line is the front (`pareto_fronts`): the best that can be had for a cost, at its
    true cost. What is not on it is pale. A method so bad that the others would have no room (by more than five
    interquartile ranges worse than the worse quartile) is outside, and named with its figure at the edge.

    Args:
        frame: Rows of `load_runs`.
        by: Another metric than the accuracy (of text, the bits per character).

    Raises:
        LookupError: If no run has the metric, or there is no run of `sgd` to compare with.
        ValueError: If neither direction of the metric is better.
    """
    return _plot_against_cost(frame, by, "train_cost")


@plot_function
def accuracy_against_predict_cost(frame: pd.DataFrame, by: str | None = None) -> Figure:
    """Plot accuracy over the cost of a prediction, in forward passes an example, with its front.

    Args:
        frame: Rows of `load_runs`.
        by: Another metric than the accuracy (of text, the bits per character).

    Raises:
        LookupError: If no run has the metric, or its cost of prediction is not known.
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
    """Draw the front as steps, and the points: those of the front above the pale others."""
    best = points[points["front"]].sort_values("cost")
    edge = points["x"].max() * 1.3
    steps = np.append(best["cost"], edge), np.append(best["y"], best["y"].iloc[-1])
    ax.plot(*steps, drawstyle="steps-post", color="0.45", linewidth=0.8, zorder=1.5)
    for label, x, y, std, front in points[["x", "y", "std", "front"]].itertuples():
        options = look[label].line_options() | {"alpha": 1.0 if front else _PALE_OPACITY, "zorder": 3 if front else 2}
        ax.errorbar([x], [y], None if math.isnan(std) else [std], elinewidth=0.7, capsize=1.5, **options)


def _exclude_outliers(ax: Axes, points: pd.DataFrame, metric: Metric) -> None:
    """End the axis before methods that are far worse than the others, or infinitely bad, and name them there."""
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
    """Move methods that cost the same, to two decimals, apart on a logarithmic axis, around their cost."""
    names = cost[sorted(cost.index, key=natural_sort_key)].groupby(cost.round(2))
    place = names.cumcount() - (names.transform("size") - 1) / 2
    step = (2 * _MAX_OFFSET / (names.transform("size") - 1)).clip(upper=_NEIGHBOR_OFFSET)  # infinite of a group of one
    return cost * np.exp(place * step)


def _format_cost_axis(ax: Axes, cost: pd.Series[float]) -> None:
    ax.set_xscale("log")
    low, high = float(cost.min()), float(cost.max())
    ax.set_xlim(low / 1.3, max(high, 1.2 * low) * 1.3)
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
