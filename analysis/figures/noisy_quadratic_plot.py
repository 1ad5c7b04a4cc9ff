"""Plots the noisy quadratic problem: the loss of averaged weights against the number of members."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from analysis.figures.plot_function import plot_function
from analysis.figures.style import COLUMN_WIDTH, add_legend, legend_columns
from analysis.frame.runs import load_series

_PANELS_PER_ROW = 2  # small panels side by side
_MAIN_HEIGHT, _SMALL_HEIGHT = 2.1, 1.4  # panel heights in inches
_LEGEND_LINE = 0.155  # inches per line of the legend
_BLUE, _ORANGE, _GREEN = (sns.color_palette("colorblind")[i] for i in (0, 1, 2))
_SIMULATED_STYLES: dict[str, dict[str, Any]] = {  # in drawing order
    "full": {"color": _ORANGE, "marker": "s", "markersize": 6.5, "markerfacecolor": "white", "label": "full ensemble"},
    "full_multiplicative": {
        "color": _GREEN,
        "marker": "^",
        "markersize": 4.5,
        "markerfacecolor": "white",
        "label": "full ensemble of θφ",
    },
    "late_phase": {"color": _BLUE, "marker": "o", "markersize": 3, "label": "late-phase"},
}
_SLOPE_ORDER = ("late_phase", "full_multiplicative", "full")  # the order in which slopes are listed
_THEORY_STYLES: dict[str, dict[str, Any]] = {
    "full_closed_form": {"color": _ORANGE, "linestyle": "-", "label": "full, closed form"},
    "late_phase_prediction": {"color": _BLUE, "linestyle": "--", "label": "late-phase, predicted"},
    "late_phase_prediction_2e7": {"color": _BLUE, "linestyle": ":", "label": "… after 2·10⁷ updates"},
}


@plot_function
def loss_against_members(frame: pd.DataFrame) -> Figure:
    """Plot the steady-state loss of the averaged weights over the number of members, on logarithmic axes.

    Points are means over seeds, error bars their standard errors. The large panel shows the setting with the least
    noise, the small panels the others. Each panel lists the slope of each simulated curve, ± its standard error over
    seeds. Lines
    are theory: the exact loss of a full ensemble, and the loss predicted for late-phase weights after the simulated
    number of iterations and after 2·10⁷.

    Args:
        frame: Rows of `load_settings`; their series are loaded.

    Raises:
        LookupError: If a setting lacks a curve.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, Figure 1.
    """
    curves = {name: _load_curve(frame, name) for name in (*_THEORY_STYLES, *_SIMULATED_STYLES)}
    errors = {name: _load_curve(frame, f"{name}_se") for name in _SIMULATED_STYLES}
    figure, axes = _make_setting_panels(len(frame))
    for i, (ax, (_, row)) in enumerate(zip(axes, frame.iterrows(), strict=True)):
        run = str(row["run_id"])
        for name, look in _THEORY_STYLES.items():
            ax.plot(curves[name][run], linewidth=0.9, **{**look, "label": None}, zorder=1.5)
        for name, look in _SIMULATED_STYLES.items():
            points = curves[name][run]
            bars = errors[name][run].reindex(points.index)
            ax.errorbar(points.index, points, bars, linestyle="", capsize=2, **_marker_options(look, large=i == 0))
        _finish_panel(ax, row, curves["late_phase"][run].index.to_list(), large=i == 0)
    for i, ax in enumerate(axes):
        if i == 0 or i >= len(axes) - _PANELS_PER_ROW:  # the lowest panels
            ax.set_xlabel("Members K")
        if i == 0 or i % _PANELS_PER_ROW == 1:
            ax.set_ylabel("Loss of averaged weights" if i == 0 else "Loss")
    handles = [Line2D([], [], linestyle="", **_marker_options(look)) for look in _SIMULATED_STYLES.values()]
    handles += [Line2D([], [], linewidth=0.9, **look) for look in _THEORY_STYLES.values()]
    add_legend(figure, handles, [str(handle.get_label()) for handle in handles])
    return figure


def _make_setting_panels(count: int) -> tuple[Figure, list[Axes]]:
    """Make one large panel, and small panels below it, side by side."""
    down = math.ceil((count - 1) / _PANELS_PER_ROW)
    labels = [str(look["label"]) for look in (*_SIMULATED_STYLES.values(), *_THEORY_STYLES.values())]
    legend = _LEGEND_LINE * math.ceil(len(labels) / legend_columns(labels, COLUMN_WIDTH)) + 0.12
    figure = Figure(figsize=(COLUMN_WIDTH, _MAIN_HEIGHT + _SMALL_HEIGHT * down + legend), layout="constrained")
    grid = figure.add_gridspec(1 + down, _PANELS_PER_ROW, height_ratios=[_MAIN_HEIGHT, *[_SMALL_HEIGHT] * down])
    places = [grid[0, :], *(grid[1 + i // _PANELS_PER_ROW, i % _PANELS_PER_ROW] for i in range(count - 1))]
    return figure, [figure.add_subplot(place) for place in places]


def _load_curve(frame: pd.DataFrame, name: str) -> dict[str, pd.Series[float]]:
    """Load a curve over K for each run."""
    series = load_series(frame, f"members/{name}")
    found = {str(run): rows.set_index("step")["value"].sort_index() for run, rows in series.groupby("run_id")}
    missing = frame.loc[~frame["run_id"].isin(found), "label"]
    if len(missing):
        raise LookupError(f"{name} of {', '.join(missing)} is not tracked")
    return found


def _marker_options(look: dict[str, Any], *, large: bool = True) -> dict[str, Any]:
    size = look["markersize"] * (1 if large else 0.75)
    return {"markeredgewidth": 0.9, "markeredgecolor": look["color"], **look, "markersize": size}


def _finish_panel(ax: Axes, row: pd.Series[Any], K: list[int], *, large: bool) -> None:
    """Format the axes of a panel, and list the slopes: inside a large panel, above a small one."""
    ax.set(xscale="log", yscale="log", xlim=(min(K) / 1.25, max(K) * 1.25))
    ax.margins(y=0.08)
    ax.xaxis.set_major_locator(FixedLocator(K if large else _spaced_ticks(K)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_title(
        f"η = {row['eta']:g}, B = {_format_batch_size(row['B'])}", fontsize=8 if large else 7, pad=4 if large else 13
    )
    slopes = [
        (row[f"slope/{name}"], row[f"slope/{name}_se"], _SIMULATED_STYLES[name]["color"]) for name in _SLOPE_ORDER
    ]
    if large:
        lines = [
            ("slope", "0.25"),
            *((f"{_format_signed(slope, 3)} ± {error:.3f}", color) for slope, error, color in slopes),
        ]
        for i, (text, color) in enumerate(lines):
            ax.text(0.97, 0.95 - 0.085 * i, text, color=color, fontsize=7, ha="right", va="top", transform=ax.transAxes)
        return
    ax.text(0.0, 1.03, "slopes", color="0.25", fontsize=6, transform=ax.transAxes)
    for i, (slope, _, color) in enumerate(slopes):
        ax.text(
            0.5 + 0.25 * i, 1.03, _format_signed(slope, 2), color=color, fontsize=6, ha="right", transform=ax.transAxes
        )


def _spaced_ticks(K: list[int]) -> list[int]:
    """Choose numbers of members that have room on a narrow logarithmic axis, starting with the largest."""
    kept: list[int] = []
    for k in sorted(K, reverse=True):
        if not kept or kept[-1] >= 1.7 * k:
            kept.append(k)
    return kept


def _format_signed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _format_batch_size(value: float) -> str:
    """Format a batch size; a large power of ten is written as a power."""
    exponent = round(math.log10(value))
    return rf"$10^{{{exponent}}}$" if value >= 10_000 and np.isclose(value, 10.0**exponent) else f"{value:g}"
