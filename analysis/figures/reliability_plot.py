"""Plots reliability diagrams: accuracy over confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.plot_function import plot_function
from analysis.figures.style import (
    COLUMN_WIDTH,
    Color,
    add_legend,
    assign_styles,
    dataset_groups,
    escape_math,
    method_styles,
    wrap_label,
)
from analysis.frame.metric_display import METRICS
from analysis.frame.run_arrays import load_predictions
from analysis.frame.runs import ranked

BINS = 15
_DIAGRAMS_PER_ROW = 3  # reliability diagrams side by side
_ROUNDING = 1e-6  # of probabilities stored in float32
_MIN_BIN_EXAMPLES = 10  # minimum examples of a bin that is drawn


@plot_function
def reliability(frame: pd.DataFrame) -> Figure:
    """Plot accuracy over confidence, one small diagram per method and one line per dataset and architecture.

    The predictions of all seeds together are sorted into 15 bins of equal width by the probability of the predicted
    class. A point is at the mean confidence of its bin; its size grows with the bin's share of the examples. Bins of
    fewer than 10 examples are not drawn. Points below the diagonal mean overconfidence. The numbers are the ECE (over
    all bins), averaged over seeds.

    Args:
        frame: Rows of `load_runs`; their predictions are loaded.
    """
    frame = ranked(frame)
    predictions = load_predictions(frame)
    labels = list(method_styles(frame))
    groups = dataset_groups(frame)
    colors = {title: style.color for title, style in assign_styles([title for title, _ in groups]).items()}
    across = min(_DIAGRAMS_PER_ROW, len(labels))
    down = -(-len(labels) // across)
    titles = [wrap_label(label) for label in labels]
    row = 0.97 * COLUMN_WIDTH / across + 0.11 * max(title.count("\n") for title in titles)
    figure = Figure(figsize=(COLUMN_WIDTH, down * row + 0.55 + 0.16 * len(groups)), layout="constrained")
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for ax, label, name in zip(axes.flat, labels, titles, strict=False):
        numbers = []
        for title, rows in groups:
            chosen = rows[rows["label"] == label]
            if len(chosen):
                _draw_bins(ax, [predictions[run] for run in chosen["run_id"]], colors[title])
                numbers.append((_mean_ece(chosen), colors[title]))
        _finish_diagram(ax, name, numbers)
    _label_edges(axes, len(labels))
    handles = [Line2D([], [], color=color, marker="o", markersize=3.5) for color in colors.values()]
    add_legend(figure, handles, list(colors), title="Numbers: ECE" if "ece" in frame else None)
    return figure


def bin_confidence(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Sort predictions into bins of equal width by the probability of the predicted class.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,).
        bins: The number of bins. Each bin includes its upper edge; the first also includes its lower edge.

    Returns:
        One row per bin that is not empty: confidence and accuracy (means, 0 to 1), share (of the examples).
    """
    confidence = probabilities.max(axis=1).astype(float)
    inside = (confidence - _ROUNDING) * bins  # so that 8 of 15 votes are in the bin that ends there
    index = np.clip(np.ceil(inside).astype(int) - 1, 0, bins - 1)
    correct = (probabilities.argmax(axis=1) == labels).astype(float)
    table = pd.DataFrame({"bin": index, "confidence": confidence, "accuracy": correct})
    out = table.groupby("bin").agg(
        confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), share=("accuracy", "size")
    )
    out["share"] /= len(labels)
    return out.reset_index(drop=True)


def _draw_bins(ax: Axes, runs: Sequence[tuple[np.ndarray, np.ndarray]], color: Color) -> None:
    probabilities = np.concatenate([run[0] for run in runs])  # (seeds · N, C)
    table = bin_confidence(probabilities, np.concatenate([run[1] for run in runs]))
    table = table[table["share"] * len(probabilities) >= _MIN_BIN_EXAMPLES]
    ax.plot(table["confidence"], table["accuracy"], color=color, linewidth=0.8)
    ax.scatter(table["confidence"], table["accuracy"], s=2 + 25 * table["share"], color=color, linewidths=0)


def _mean_ece(rows: pd.DataFrame) -> str:
    return METRICS["ece"].format_value(float(rows["ece"].mean())) if "ece" in rows else ""


def _finish_diagram(ax: Axes, title: str, numbers: Sequence[tuple[str, Color]]) -> None:
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle="--", zorder=0.5)
    for line, (ece, color) in enumerate(reversed(numbers)):
        ax.text(0.97, 0.04 + 0.13 * line, ece, color=color, fontsize=6, ha="right", transform=ax.transAxes)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_title(escape_math(title), fontsize=6.5, pad=3)


def _label_edges(axes: np.ndarray, used: int) -> None:
    """Label the left and the lowest diagrams, and remove diagrams without a method."""
    across = axes.shape[1]
    for i, ax in enumerate(axes.flat):
        if i >= used:
            ax.remove()
        elif i + across >= used:
            ax.tick_params(labelbottom=True)
            if i >= axes.size - across:
                ax.set_xlabel("Confidence", fontsize=7)
        if i % across == 0:
            ax.set_ylabel("Accuracy", fontsize=7)
