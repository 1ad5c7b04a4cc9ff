"""Plots metrics over a value that a study varies, such as T0 or the fraction of wrong labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from analysis.figures.plot_function import check_choice, check_metrics_present, check_name_list, plot_function
from analysis.figures.style import (
    MethodStyle,
    add_legend,
    assign_styles,
    dataset_groups,
    escape_math,
    make_panels,
)
from analysis.frame.metric_display import describe
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, summarize

DEFAULT_VALUES = {"label_noise": 0.0, "cutout": 0.0}
"""Values that the label of a dataset omits."""
_ENTRY = [*DATASET_AND_ARCHITECTURE, "label"]
_MIN_TICK_GAP = 0.08  # minimum distance between two ticks, as a fraction of the axis


@plot_function
def metric_against_value(
    frame: pd.DataFrame,
    *,
    x: str,
    metrics: Sequence[str] = ("accuracy",),
    xlabel: str | None = None,
    xscale: Literal["linear", "log", "symlog"] = "linear",
    chosen_on_test: bool = False,
    best_of: Mapping[str, str] | None = None,
) -> Figure:
    """Plot metrics over a value, one panel per metric, dataset and architecture, and one line per method.

    An entry's value is read from "x = NUMBER" in its label ("line, β = 1") or in the label of its dataset ("cifar10
    label_noise=0.2"). Entries whose labels are otherwise equal form one line. The line breaks at values without a
    finished run. Entries without a value are horizontal lines: dotted for plain training, dash-dotted for others.
    Points are means over seeds; error bars, and bands of horizontal lines, are sample standard deviations.

    Args:
        frame: Rows of `load_runs`.
        x: The name of the value, as labels write it.
        metrics: Columns of the frame.
        xlabel: The label of the x axis; None for the name of the value.
        xscale: "linear", "log" or "symlog" (linear around zero).
        chosen_on_test: Also show the runs that were chosen on test data, marked as such.
        best_of: Name → prefix of labels. Of the entries with this prefix, only the best mean at each value is drawn,
            under the name and marked as chosen. The choice is made for each metric separately.

    Raises:
        LookupError: If no run has a metric, no label has a value, or no label has the prefix.
        ValueError: For an unknown value of an option, and if two entries share a line and a value.
    """
    check_choice("xscale", xscale, ("linear", "log", "symlog"))
    metrics = check_name_list("metrics", metrics)
    table = sweep_table(frame if chosen_on_test else ranked(frame), x, best_of or {})
    check_metrics_present(table, metrics)
    only_sgd = (table["method"] == "sgd").groupby(table["series"]).all()
    plain_training = list(only_sgd.index[only_sgd])
    look = assign_styles(set(table["series"]), plain_training[0] if len(plain_training) == 1 else "sgd")
    parts = [(metric, title, rows) for metric in metrics for title, rows in dataset_groups(table)]
    if len(metrics) == 2:  # one row per dataset and architecture, one column per metric
        parts = [(metric, title, rows) for title, rows in dataset_groups(table) for metric in metrics]
    figure, axes = make_panels(len(parts), 1.9, list(look))
    for ax, (metric, title, rows) in zip(axes, parts, strict=True):
        for series, entries in keep_best(rows, metric).groupby("series"):
            _draw_series(ax, entries, metric, look[str(series)])
        _format_value_axis(ax, np.unique(rows["x"].dropna()), xscale)
        ax.set(title=escape_math(title), xlabel=escape_math(xlabel or x), ylabel=describe(metric).header)
    handles = [_legend_handle(table[table["series"] == name], style) for name, style in look.items()]
    add_legend(figure, handles, list(look))
    return figure


def sweep_table(frame: pd.DataFrame, x: str, best_of: Mapping[str, str]) -> pd.DataFrame:
    """Average entries over seeds, and split their labels into a value and the rest.

    Args:
        frame: Rows of `load_runs`.
        x: The name of the value.
        best_of: Name → prefix of the labels that share it.

    Returns:
        The columns of `summarize`, with the value removed from the dataset, and x (NaN where there is no value), series
        (the name of the line) and several (whether only the best of several entries is drawn).

    Raises:
        LookupError, ValueError: As `metric_against_value` does.
    """
    on_test = frame["chosen_on"] == "test" if "chosen_on" in frame else pd.Series(False, index=frame.index)
    marked = frame.assign(_on_test=on_test).groupby(_ENTRY)["_on_test"].any()
    table = summarize(frame)
    by_dataset = any(split_label(name, x)[0] is not None for name in table["dataset"])
    rows = []
    for entry in table.to_dict("records"):
        dataset = entry["dataset"]
        value, series = split_label(entry["label"], x)
        if value is None:
            value, dataset = split_label(dataset, x)
            if value is None and by_dataset:
                value = DEFAULT_VALUES.get(x)
        group = next((name for name, start in best_of.items() if entry["label"].startswith(start)), None)
        if group is not None:
            series = f"{group} (best of {_count_labels(table, best_of[group])}, chosen on {entry['evaluated_on']})"
        elif marked[entry["dataset"], entry["architecture"], entry["label"]]:
            series = f"{series} (chosen on test)"
        number = np.nan if value is None else value
        rows.append({"dataset": dataset, "x": number, "series": series, "several": group is not None})
    for start in best_of.values():
        if not _count_labels(table, start):
            raise LookupError(f"no entry's label begins with {start!r}; there are: {_list_labels(table)}")
    table[["dataset", "x", "series", "several"]] = pd.DataFrame(rows, index=table.index)
    if table["x"].isna().all():
        raise LookupError(f"no label or dataset has a value as in '{x} = 1'; there are: {_list_labels(table)}")
    _check_unique_points(table, x)
    return pd.concat([table, _unfinished_points(frame, table, x)], ignore_index=True)


def _unfinished_points(frame: pd.DataFrame, table: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return rows without scores for entries that have no finished run; lines break there."""
    finished = set(table[["dataset", "architecture", "series", "x"]].itertuples(index=False, name=None))
    methods = {(row["dataset"], row["architecture"], row["series"]): row["method"] for row in table.to_dict("records")}
    rows = {}
    for cell in frame.attrs.get("unfinished", []):
        if "label" not in cell:
            continue
        dataset, (value, series) = cell["dataset"], split_label(cell["label"], x)
        if value is None:
            value, dataset = split_label(dataset, x)
        line = (dataset, cell["architecture"], series)
        if value is not None and line in methods and (*line, value) not in finished:
            names = dict(zip(("dataset", "architecture", "series"), line, strict=True))
            rows[*line, value] = names | {"x": value, "several": False, "method": methods[line]}
    columns = ["dataset", "architecture", "series", "x", "several", "method"]
    return pd.DataFrame(list(rows.values()), columns=columns).astype({"x": float, "several": bool})


def split_label(label: str, x: str) -> tuple[float | None, str]:
    """Split a label into the value of x and the rest: "line(β=1, K=2)" into 1 and "line(K=2)".

    Returns:
        The value, or None if the label has none, and the label without it; x itself if nothing else is left.
    """
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    edge = r"[\s,:;·]*"
    found = re.search(rf"({edge})(?<!\w){re.escape(x)}\s*=\s*({number})(?![\w.])({edge})", label)
    if not found:
        return None, label
    before, after = label[: found.start()], label[found.end() :]
    if before.endswith("(") and after.startswith(")"):  # the brackets held nothing else
        before, after = before[:-1].rstrip(), after[1:]
    elif before and after and not before.endswith("(") and not after.startswith(")"):
        before += found[3] or found[1]
    return float(found[2]), before + after or x


def keep_best(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Keep only the best mean at each value, among entries of which only the best is drawn.

    Raises:
        ValueError: If neither direction of the metric is better.
    """
    several = rows[rows["several"] & rows[f"{metric}_mean"].notna()]
    if several.empty:
        return rows[~rows["several"]]
    better = describe(metric).better
    if better is None:
        raise ValueError(f"best_of needs a metric with a better direction; {metric} has none")
    order = several.sort_values(f"{metric}_mean", ascending=better == "lower", kind="stable")
    kept = order.groupby(["series", "x"], dropna=False).head(1)
    return rows[~rows["several"] | rows.index.isin(kept.index)]


def _count_labels(table: pd.DataFrame, start: str) -> int:
    labels = {label for label in table["label"] if label.startswith(start)}
    return len(labels)


def _list_labels(table: pd.DataFrame) -> str:
    return ", ".join(sorted(set(table["label"])))


def _check_unique_points(table: pd.DataFrame, x: str) -> None:
    for _, rows in table[~table["several"]].groupby([*DATASET_AND_ARCHITECTURE, "series", "x"], dropna=False):
        if len(rows) > 1:
            one = rows.iloc[0]
            where = "without a value" if pd.isna(one["x"]) else f"at {x} = {one['x']:g}"
            both = " and ".join(rows["label"])
            raise ValueError(f"{both} would both be {one['series']!r} {where}: label them differently")


def _draw_series(ax: Axes, entries: pd.DataFrame, metric: str, look: MethodStyle) -> None:
    mean, std = f"{metric}_mean", f"{metric}_std"
    points = entries[entries["x"].notna()].sort_values("x")
    if points[mean].notna().any():
        bars = None if points[std].isna().all() else points[std]
        ax.errorbar(points["x"], points[mean], bars, elinewidth=0.7, capsize=1.5, **look.line_options())
    for level in entries[entries["x"].isna() & entries[mean].notna()].to_dict("records"):
        ax.axhline(level[mean], color=look.color, linestyle=_level_line_style(level["method"]))
        if not np.isnan(level[std]):
            low, high = level[mean] - level[std], level[mean] + level[std]
            ax.axhspan(low, high, color=look.color, alpha=0.1, linewidth=0)


def _level_line_style(method: str) -> Literal[":", "-."]:
    return ":" if method == "sgd" else "-."


def _legend_handle(rows: pd.DataFrame, look: MethodStyle) -> Line2D:
    if rows["x"].notna().any():
        return Line2D([], [], **look.line_options())
    return Line2D([], [], color=look.color, linestyle=_level_line_style(rows["method"].iloc[0]))


def _format_value_axis(ax: Axes, values: np.ndarray, scale: str) -> None:
    """Put ticks at the values of the sweep, leaving out those without room."""
    if scale == "log" and values[0] <= 0:
        raise ValueError(f"xscale: log cannot show {values[0]:g}; use symlog")
    positive = np.abs(values[values != 0])
    options = {"linthresh": float(positive.min())} if scale == "symlog" and len(positive) else {}
    ax.set_xscale(scale, **options)
    places = ax.xaxis.get_transform().transform(values)
    kept: list[int] = []
    for i, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= _MIN_TICK_GAP * (places[-1] - places[0]):
            kept.append(i)
    ax.xaxis.set_major_locator(FixedLocator([float(value) for value in values[kept]]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
