"""Plots the loss landscape around a method's networks: scores on a plane, and the flatness of the loss.

Runs that were chosen on test data are left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from analysis.figures.plot_function import check_choice, check_name_list, plot_function
from analysis.figures.style import (
    COLUMN_WIDTH,
    add_legend,
    dataset_groups,
    draw_band,
    escape_math,
    make_panels,
    method_styles,
    note_height,
    note_missing_methods,
)
from analysis.frame.run_arrays import load_arrays
from analysis.frame.runs import ranked

_QUANTITY_LABELS = {
    "error": "Test error (%)",
    "accuracy": "Test accuracy (%)",
    "nll": "Test NLL (nats)",
    "train_nll": "Training NLL (nats)",
}
_PLANES_PER_ROW = 3  # small diagrams side by side across two columns
_TITLE_LENGTH = 32  # characters per line of a title above a small diagram
_ANCHOR_MARKERS = "os^"


@plot_function
def scores_on_plane(
    frame: pd.DataFrame, *, quantities: Sequence[Literal["error", "accuracy", "nll", "train_nll"]] | None = None
) -> Figure:
    """Plot scores on the plane through three networks, with a row per method; a single score has three methods per row.

    Each method shows its first seed, because planes of different seeds cannot be averaged. The marks are the three
    networks; network 1 is the origin. The dotted line is the path that the plot `path` follows, projected on the plane.
    Colour levels are closer together for better values.

    Args:
        frame: Rows of `load_runs`; their arrays are loaded.
        quantities: "error" and "accuracy" (test data, %), "nll" and "train_nll" (nats); None for the error and those
            of the two others that were measured.

    Raises:
        LookupError: If no run has a plane, or a given quantity was not measured on any plane.
        ValueError: For an unknown quantity.
    """
    frame = ranked(frame)
    arrays = load_arrays(frame, "plane")
    drawn = frame[frame["run_id"].isin(arrays)].sort_values("seed", kind="stable")
    planes = {
        (str(label), f"{title} · seed {runs['seed'].iloc[0]}"): arrays[runs["run_id"].iloc[0]]
        for title, rows in dataset_groups(drawn)
        for label, runs in rows.groupby("label")
    }
    columns = _select_quantities(list(planes.values()), quantities)
    note = note_missing_methods(frame, set(drawn["label"]), "a plane")
    across = min(_PLANES_PER_ROW, len(planes)) if len(columns) == 1 else 1
    down = -(-len(planes) // across)
    titles = [f"{label} · {cell}" for label, cell in planes]
    if len(columns) == 1:
        titles = ["\n".join(textwrap.fill(part, _TITLE_LENGTH) for part in names) for names in planes]
    height = 1.83 + 0.11 * max(title.count("\n") + 1 for title in titles)
    size = (2 * COLUMN_WIDTH * max(len(columns), across) / _PLANES_PER_ROW, height * down + note_height(note))
    figure = Figure(figsize=size, layout="constrained")
    places = figure.subfigures(down, across, squeeze=False).ravel()
    for place, title, plane in zip(places, titles, planes.values(), strict=False):
        place.suptitle(escape_math(title), fontsize=7.5)
        for ax, name in zip(place.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            _draw_plane(place, ax, plane, name)
    if note:
        add_legend(figure, [], [], title=note)
    return figure


@plot_function
def flatness(frame: pd.DataFrame) -> Figure:
    """Plot the increase of the training loss under noise on the weights, one panel per dataset and architecture.

    Lines are means over seeds of the mean over noise draws, bands sample standard deviations over seeds. A slower
    increase means a flatter minimum.

    Args:
        frame: Rows of `load_runs`; their arrays are loaded.

    Raises:
        LookupError: If flatness was measured for no run.
    """
    frame = ranked(frame)
    arrays = load_arrays(frame, "flatness")
    drawn = frame[frame["run_id"].isin(arrays)]
    look = {label: style for label, style in method_styles(frame).items() if label in set(drawn["label"])}
    figure, axes = make_panels(len(dataset_groups(drawn)), 2.0, list(look))
    for ax, (title, rows) in zip(axes, dataset_groups(drawn), strict=True):
        for label, runs in rows.groupby("label"):
            found = [arrays[run] for run in runs["run_id"]]
            rises = np.stack([each["increase"].mean(1) for each in found])  # (seeds, sigmas)
            draw_band(ax, found[0]["sigma"], rises, look[str(label)])
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set(
            title=escape_math(title), xlabel="Noise σ, relative to each weight", ylabel="Increase of the loss (nats)"
        )
    add_legend(figure, [Line2D([], [], **style.line_options()) for style in look.values()], list(look))
    return figure


def _select_quantities(planes: list[dict[str, np.ndarray]], asked: Sequence[str] | None) -> list[str]:
    """Return the quantities to draw, and check that they were measured."""
    measured = [name for name in _QUANTITY_LABELS if name == "error" or any(name in plane for plane in planes)]
    if asked is None:
        return [name for name in measured if name != "accuracy"]
    for name in check_name_list("quantities", asked):
        check_choice("quantity", name, _QUANTITY_LABELS)
        if name not in measured:
            raise LookupError(f"no plane has {name}; there is: {', '.join(measured)}")
    return list(asked)


def _draw_plane(figure: SubFigure, ax: Axes, plane: dict[str, np.ndarray], name: str) -> None:
    if name not in {"error", *plane}:
        ax.remove()
        return
    values = np.ma.masked_invalid(100 - plane["accuracy"] if name == "error" else plane[name])
    if name == "accuracy":
        levels, colors, beyond, ticks = -_contour_levels(-values.compressed())[::-1], "viridis", "min", [0, 2, 4, 6, 9]
    else:
        levels, colors, beyond, ticks = _contour_levels(values.compressed()), "viridis_r", "max", [0, 3, 5, 7, 9]
    drawn = ax.contourf(plane["x"], plane["y"], values, levels=levels, cmap=colors, extend=beyond)
    ax.contour(plane["x"], plane["y"], values, levels=levels, colors="white", linewidths=0.3)
    beside = ax.inset_axes((1.04, 0.0, 0.06, 1.0))
    bar = figure.colorbar(drawn, cax=beside, ticks=levels[ticks], format="%.3g")
    bar.ax.tick_params(labelsize=5.5, width=0.4, length=2)
    ax.plot(*plane["path"].T, color="black", linestyle=":", linewidth=0.9)
    halo = [withStroke(linewidth=1.2, foreground="white")]
    for (x, y), marker, label in zip(plane["anchors"], _ANCHOR_MARKERS, plane["names"], strict=True):
        ax.plot(x, y, marker, color="black", markeredgecolor="white", markeredgewidth=0.5, markersize=4.5)
        ax.annotate(
            str(label), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6, color="black", path_effects=halo
        )
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.tick_params(labelsize=6)
    ax.set_title(_QUANTITY_LABELS[name], fontsize=7, pad=3)
    ax.set_xlabel(f"Distance in {plane['space'].item()}", fontsize=6.5)


def _contour_levels(values: np.ndarray) -> np.ndarray:
    """Return ten levels, closer together at low values; a tenth of the values lie above the last one."""
    low, high = float(values.min()), float(np.percentile(values, 90))
    steps: np.ndarray = low + max(high - low, 1e-6) * np.concatenate([[0.0], np.geomspace(0.02, 1.0, 9)])
    return steps + 0.0  # adding zero turns -0 into 0
