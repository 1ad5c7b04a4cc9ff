"""Plots of the space around a method's networks: along a path, on a plane, and how flat the loss is.

Runs that were chosen on test data are left out of all of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from analysis.metrics import METRICS
from analysis.runs import load_arrays, ranked
from analysis.style import (
    WIDTH,
    add_legend,
    cells,
    draw_band,
    looks,
    missing,
    note_height,
    panels,
    plain,
    styled,
)

_QUANTITIES = {"error": "Test error (%)", "nll": "Test NLL (nats)", "train_nll": "Training NLL (nats)"}
_MARKERS = "os^"


def scores_along_path(frame: pd.DataFrame, metric: Literal["accuracy", "nll"] = "accuracy") -> Figure:
    """Plot a score along the path between a method's first two networks, two panels a dataset and architecture.

    One shows the network P(α), the other P(α) and P(1 − α) together; the dotted line is plain training. Lines are means
    over seeds, bands sample standard deviations. A line that runs into a barrier leaves the panel.

    Args:
        frame: Rows of `load_runs`; their arrays are read.
        metric: "accuracy" or "nll".

    Raises:
        LookupError: If no run has a path.
    """
    frame = ranked(frame)
    arrays = load_arrays(frame, "path")
    drawn = frame[frame["run_id"].isin(arrays)]
    baselines = {title: rows[metric].mean() for title, rows in cells(frame[frame["method"] == "sgd"])}
    look = {label: style for label, style in looks(set(frame["label"])).items() if label in set(drawn["label"])}
    handles = [Line2D([], [], **style.options()) for style in look.values()]
    names = list(look)
    if baselines:
        handles.append(Line2D([], [], color="black", linestyle=":"))
        names.append("plain training")
    parts = [
        (title, rows, prefix, points)
        for title, rows in cells(drawn)
        for prefix, points in (("", "P(α)"), ("pair_", "P(α), P(1 − α)"))
    ]
    with styled():
        note = missing(frame[frame["method"] != "sgd"], look, "a path")
        figure, axes = panels(len(parts), 1.9, names, note)
        for ax, (title, rows, prefix, points) in zip(axes, parts, strict=True):
            shown = [baselines[title]] if title in baselines else []
            for label, runs in rows.groupby("label"):
                found = [arrays[run] for run in runs["run_id"]]
                scores = np.stack([each[prefix + metric] for each in found])  # (seeds, points)
                draw_band(ax, found[0]["alpha"], scores, look[str(label)])
                mean = scores.mean(0)
                shown += [mean[0], mean[-1], mean.max(), mean.min() if metric == "nll" else mean.max()]
            if title in baselines:
                ax.axhline(baselines[title], color="black", linestyle=":")
            _cut(ax, shown, better=METRICS[metric].better)
            ax.set(title=f"{plain(title)}\n{points}", xlabel="α", ylabel=METRICS[metric].header)
        add_legend(figure, handles, names, title=note)
    return figure


def scores_on_plane(frame: pd.DataFrame) -> Figure:
    """Plot test error, test NLL and training NLL on the plane through three networks, a row for each method.

    Each row shows the first seed: planes of different seeds are different planes. The marks are the three networks,
    of which 1 is the origin; the dotted line is the path that `scores_along_path` follows, seen on the plane. Colours
    are spaced closer the lower a value is.

    Args:
        frame: Rows of `load_runs`; their arrays are read.

    Raises:
        LookupError: If no run has a plane.
    """
    frame = ranked(frame)
    arrays = load_arrays(frame, "plane")
    drawn = frame[frame["run_id"].isin(arrays)].sort_values("seed", kind="stable")
    planes = {
        f"{label} · {title} · seed {runs['seed'].iloc[0]}": arrays[runs["run_id"].iloc[0]]
        for title, rows in cells(drawn)
        for label, runs in rows.groupby("label")
    }
    columns = [name for name in _QUANTITIES if any(name in {"error", *plane} for plane in planes.values())]
    note = missing(frame, set(drawn["label"]), "a plane")
    with styled():
        size = (2 * WIDTH * len(columns) / 3, 1.95 * len(planes) + note_height(note))
        figure = Figure(figsize=size, layout="constrained")
        rows = figure.subfigures(len(planes), 1, squeeze=False)[:, 0]
        for row, (title, plane) in zip(rows, planes.items(), strict=True):
            row.suptitle(plain(title), fontsize=7.5)
            for ax, name in zip(row.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
                _draw_plane(row, ax, plane, name)
        if note:
            add_legend(figure, [], [], title=note)
    return figure


def flatness(frame: pd.DataFrame) -> Figure:
    """Plot how much the training loss rises with noise on the weights, one panel a dataset and architecture.

    Lines are means over seeds of the mean over draws, bands sample standard deviations over seeds. A slower rise
    means a flatter minimum.

    Args:
        frame: Rows of `load_runs`; their arrays are read.

    Raises:
        LookupError: If no run has a flatness.
    """
    frame = ranked(frame)
    arrays = load_arrays(frame, "flatness")
    drawn = frame[frame["run_id"].isin(arrays)]
    look = {label: style for label, style in looks(set(frame["label"])).items() if label in set(drawn["label"])}
    with styled():
        figure, axes = panels(len(cells(drawn)), 2.0, list(look))
        for ax, (title, rows) in zip(axes, cells(drawn), strict=True):
            for label, runs in rows.groupby("label"):
                found = [arrays[run] for run in runs["run_id"]]
                rises = np.stack([each["increase"].mean(1) for each in found])  # (seeds, sigmas)
                draw_band(ax, found[0]["sigma"], rises, look[str(label)])
            ax.xaxis.set_major_locator(MaxNLocator(6))
            ax.set(title=plain(title), xlabel="Noise σ, relative to each weight", ylabel="Rise of the loss (nats)")
        add_legend(figure, [Line2D([], [], **style.options()) for style in look.values()], list(look))
    return figure


def _cut(ax: Axes, shown: list[float], better: Literal["higher", "lower"] | None) -> None:
    """Let the axis show so much and a little more towards worse values, so that no barrier fills it."""
    low, high = min(shown), max(shown)
    room = max(0.5 * (high - low), 1e-9)
    below, above = (room, 0.3 * room) if better == "higher" else (0.3 * room, room)
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, low - below), min(top, high + above))


def _draw_plane(figure: SubFigure, ax: Axes, plane: dict[str, np.ndarray], name: str) -> None:
    if name not in {"error", *plane}:
        ax.remove()
        return
    values = np.ma.masked_invalid(100 - plane["accuracy"] if name == "error" else plane[name])
    levels = _levels(values.compressed())
    drawn = ax.contourf(plane["x"], plane["y"], values, levels=levels, cmap="viridis_r", extend="max")
    ax.contour(plane["x"], plane["y"], values, levels=levels, colors="white", linewidths=0.3)
    beside = ax.inset_axes((1.04, 0.0, 0.06, 1.0))
    bar = figure.colorbar(drawn, cax=beside, ticks=levels[[0, 3, 5, 7, 9]], format="%.3g")
    bar.ax.tick_params(labelsize=5.5, width=0.4, length=2)
    ax.plot(*plane["path"].T, color="black", linestyle=":", linewidth=0.9)
    halo = [withStroke(linewidth=1.2, foreground="white")]
    for (x, y), marker, label in zip(plane["anchors"], _MARKERS, plane["names"], strict=True):
        ax.plot(x, y, marker, color="black", markeredgecolor="white", markeredgewidth=0.5, markersize=4.5)
        ax.annotate(
            str(label), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6, color="black", path_effects=halo
        )
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.tick_params(labelsize=6)
    ax.set_title(_QUANTITIES[name], fontsize=7, pad=3)
    ax.set_xlabel(f"Distance in {plane['space'].item()}", fontsize=6.5)


def _levels(values: np.ndarray) -> np.ndarray:
    """Space ten levels closer the lower they are; a tenth of the values lie above the last one."""
    low, high = float(values.min()), float(np.percentile(values, 90))
    steps: np.ndarray = low + max(high - low, 1e-6) * np.concatenate([[0.0], np.geomspace(0.02, 1.0, 9)])
    return steps
