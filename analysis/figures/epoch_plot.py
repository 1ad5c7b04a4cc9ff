"""Plots values over the epochs of training: test scores, training loss, distances between networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.plot_function import check_choice, check_name_list, plot_function
from analysis.figures.style import (
    add_legend,
    dataset_groups,
    draw_band,
    escape_math,
    make_panels,
    method_styles,
)
from analysis.frame.runs import load_series, ranked

SERIES_LABELS = {
    "test/accuracy": "Test accuracy (%)",
    "test/bpc": "Test bits per character",
    "test/nll": "Test NLL (nats)",
    "train/loss": "Training loss (nats)",
    "distance/l2": "L2 distance",
    "distance/cosine": "Cosine",
    "distance/squared_cosine": "Squared cosine",
    "train/lr": "Learning rate",
}
"""The values tracked after each epoch, and their axis labels.

All but the training loss and the learning rate are tracked only if the study asks for them.
"""
_DEFAULT_SERIES = ("test/accuracy", "test/bpc", "test/nll", "train/loss", "distance/l2", "distance/squared_cosine")


@plot_function
def over_epochs(
    frame: pd.DataFrame,
    *,
    series: Sequence[str] | None = None,
    start: int | float | None = None,
    marks: Mapping[str, int | float] | None = None,
) -> Figure:
    """Plot values tracked after each epoch, one panel per quantity, dataset and architecture.

    Lines are means over seeds, bands sample standard deviations. The training loss is the loss that each method
    minimises, on augmented data. Distances are averaged over pairs of a method's networks, from the epoch in which it
    has several. A value is drawn at the number of epochs trained when it was measured.

    Args:
        frame: Rows of `load_runs`; their series are loaded.
        series: Quantities, by their names in `SERIES_LABELS`; None for scores, loss, L2 distance and squared cosine.
        start: The start of the axis: a number of epochs, or (as a fraction) a share of the longest run.
        marks: Name → position of a vertical line, given like `start`. For example `{T0: 120}` marks the start of the
            late phase. Marks outside the axis are left out.

    Raises:
        LookupError: If none of the quantities was tracked over these epochs.
        ValueError: For an unknown series, or a fraction above one.
    """
    for name in [] if series is None else check_name_list("series", series):
        check_choice("series", name, SERIES_LABELS)
    frame = ranked(frame)
    tracked = {name: load_series(frame, name) for name in series or _DEFAULT_SERIES}
    last = max((int(each["step"].max()) for each in tracked.values() if len(each)), default=0)
    first = epoch_at(start, last)
    tracked = {name: each[each["step"] >= first] for name, each in tracked.items()}
    parts = [
        (name, title, rows)
        for name, each in tracked.items()
        if len(each)
        for title, rows in dataset_groups(
            each.merge(frame[["run_id", "label", "dataset", "architecture"]], on="run_id")
        )
    ]
    if not parts:
        what = "anything" if series is None else " or ".join(series)
        since = f" from epoch {first:g} on (the last one is {last})" if first and last else ""
        raise LookupError(f"no run has {what} tracked over epochs{since}")
    labels = {label for _, _, rows in parts for label in rows["label"]}
    look = {label: style for label, style in method_styles(frame).items() if label in labels}
    figure, axes = make_panels(len(parts), 1.75, list(look))
    for ax, (name, title, rows) in zip(axes, parts, strict=True):
        for label, runs in rows.groupby("label"):
            table = runs.pivot_table(index="run_id", columns="step", values="value")  # (seeds, epochs)
            draw_band(ax, table.columns.to_numpy(float), table.to_numpy(float), look[str(label)])
        for text, position in (marks or {}).items():
            if first <= epoch_at(position, last) <= last:
                _draw_mark(ax, epoch_at(position, last), text)
        ax.set(title=escape_math(title), xlabel="Epoch", ylabel=SERIES_LABELS[name])
    add_legend(figure, [Line2D([], [], **style.line_options()) for style in look.values()], list(look))
    return figure


def epoch_at(position: int | float | None, epochs: int) -> float:
    """Convert a position in training, an epoch or a fraction of all epochs, to an epoch; None is the start.

    Raises:
        ValueError: If the position is neither.
    """
    if position is None:
        return 0.0
    if isinstance(position, bool) or not isinstance(position, int | float) or position < 0:
        raise ValueError(f"a position in training is an epoch, or a fraction of all epochs; got {position!r}")
    if isinstance(position, float) and position > 1:
        raise ValueError(f"{position} is not a fraction of all epochs; write an epoch as a whole number")
    return float(position if isinstance(position, int) else round(position * epochs))


def _draw_mark(ax: Axes, epoch: float, text: str) -> None:
    ax.axvline(epoch, color="0.3", linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    ax.annotate(
        escape_math(text),
        (epoch, 1),
        (-1.5, -2),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        fontsize=6,
        color="0.3",
        rotation=90,
        ha="right",
        va="top",
    )
