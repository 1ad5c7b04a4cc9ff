"""Defines the common style of all plots: sizes for a paper's column, and colour-blind-safe colours."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE

COLUMN_WIDTH = 3.3  # inches: one column of a two-column paper
_MARKERS = "osD^vPX<>hp"  # 11 markers and 8 colours make 88 pairs before one repeats
_PALE_COLORS = (7, 8)  # indices in seaborn's palette: grey, and a yellow too light for thin lines
_PLAIN_TRAINING = "sgd"  # the method that all others are compared with
_LABEL_LENGTH = 17  # characters of a label that fit above a small diagram
_NOTE_LENGTH = 55  # characters per line of a note in a column
_LEGEND_LINE = 0.155  # inches per line of a legend
_BANNER_DENSITY = 16  # characters of a banner per inch
_BANNER_COLOR = "#9c3d1f"
_RC_PARAMS = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.edgecolor": "0.3",
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.use": False,
    "pdf.fonttype": 42,  # embeds text as text, as publishers require
    "svg.fonttype": "path",  # draws text as paths, so that no font is needed
    "svg.hashsalt": "economical-ensembles",  # makes the same figure the same file
}


Color = tuple[float, float, float]


@dataclass(frozen=True)
class MethodStyle:
    """Colour and marker of one method. The marker is hollow where a colour is used for a second method."""

    color: Color
    marker: str
    hollow: bool = False

    def line_options(self) -> dict[str, Any]:
        """Return matplotlib's keyword arguments for a line, its markers and its error bars."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": 7 if self.marker == "*" else 4.5,
            "markerfacecolor": "white" if self.hollow else self.color,
            "markeredgecolor": self.color if self.hollow else "white",
            "markeredgewidth": 0.9 if self.hollow else 0.4,
        }


@contextmanager
def plot_style() -> Iterator[None]:
    """Apply the common style within a `with` block; matplotlib's settings are restored afterwards."""
    settings: Any = sns.axes_style("whitegrid") | _RC_PARAMS
    with mpl.rc_context(settings):
        yield


def assign_styles(labels: Collection[str], plain_training: str = _PLAIN_TRAINING) -> dict[str, MethodStyle]:
    """Assign a colour and a marker to every method; the same methods get the same styles in every plot.

    Plain training is black; the others follow in the order of their names.

    Args:
        labels: The methods.
        plain_training: The label of plain training.
    """
    others = sorted(set(labels) - {plain_training}, key=natural_sort_key)
    colors = sns.color_palette("colorblind", 10)
    palette = [colors[i] for i in range(len(colors)) if i not in _PALE_COLORS]
    found = {
        label: MethodStyle(palette[i % len(palette)], _MARKERS[i % len(_MARKERS)], hollow=i // len(palette) % 2 == 1)
        for i, label in enumerate(others)
    }
    return {plain_training: MethodStyle((0.0, 0.0, 0.0), "*")} | found if plain_training in labels else found


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers in names by value: "K = 5" before "K = 10"."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def method_styles(frame: pd.DataFrame) -> dict[str, MethodStyle]:
    """Return the styles of all methods of a frame; plain training is recognised by its method, whatever its label."""
    called = set(frame.loc[frame["method"] == _PLAIN_TRAINING, "label"])
    return assign_styles(set(frame["label"]), called.pop() if len(called) == 1 else _PLAIN_TRAINING)


def dataset_groups(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a frame by dataset and architecture; return each part with its title."""
    parts = frame.groupby(DATASET_AND_ARCHITECTURE, sort=True)
    return [(" · ".join(map(str, cell)), rows) for cell, rows in parts]


def make_panels(count: int, height: float, legend: Sequence[str], note: str | None = None) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels, each a column wide; three or more panels are placed in two columns.

    Args:
        count: The number of panels.
        height: The height of a panel in inches.
        legend: The entries of the legend below the panels.
        note: The title of the legend.
    """
    across = 1 if count <= 2 else 2
    down = math.ceil(count / across)
    columns = legend_columns(legend, COLUMN_WIDTH * across)
    lines = math.ceil(len(legend) / columns) if legend else 0
    size = (COLUMN_WIDTH * across, height * down + _LEGEND_LINE * lines + (0.12 if lines else 0.0) + note_height(note))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return figure, list(axes[:count])


def note_height(note: str | None) -> float:
    """Return the height of a note below the panels in inches."""
    return _LEGEND_LINE * len(note.split("\n")) if note else 0.0


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many legend columns fit into a width in inches."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels) or 1, int(width / (0.3 + 0.056 * longest))))


def add_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str], title: str | None = None) -> None:
    """Add a legend below the panels."""
    width = float(figure.get_size_inches()[0])
    figure.legend(
        list(handles),
        [escape_math(label) for label in labels],
        loc="outside lower center",
        ncols=legend_columns(labels, width),
        frameon=False,
        title=title,
        handletextpad=0.4,
        columnspacing=1.0,
        labelspacing=0.3,
        borderpad=0.1,
    )


def draw_points(
    ax: Axes, x: Sequence[float], y: Sequence[float], std: Sequence[float], look: MethodStyle, *, line: str
) -> None:
    """Draw points with error bars; there are none for a single seed."""
    bars = None if np.isnan(np.asarray(std)).all() else std
    ax.errorbar(x, y, bars, linestyle=line, elinewidth=0.7, capsize=1.5, **look.line_options())


def draw_band(ax: Axes, x: np.ndarray, values: np.ndarray, look: MethodStyle, line: str = "-") -> None:
    """Draw the mean over seeds as a line, with a band of the sample standard deviation.

    Args:
        ax: The axes.
        x: (n,).
        values: (seeds, n); NaN where a seed has no value.
        look: The method's style; at most about seven markers are drawn.
        line: The line style, in matplotlib's notation.
    """
    table = pd.DataFrame(values)  # ignores NaN without a warning
    mean = table.mean().to_numpy()
    ax.plot(x, mean, linestyle=line, markevery=max(1, len(x) // 6), **look.line_options())
    if len(values) > 1:
        std = table.std(ddof=1).to_numpy()
        ax.fill_between(x, mean - std, mean + std, color=look.color, alpha=0.15, linewidth=0)


def note_missing_methods(frame: pd.DataFrame, drawn: Collection[str], what: str) -> str | None:
    """Return a note that names the methods not drawn, wrapped to fit below the panels; None if all are drawn."""
    others = sorted(set(frame["label"]) - set(drawn))
    return textwrap.fill(f"Without {what}: {', '.join(map(escape_math, others))}", _NOTE_LENGTH) if others else None


def wrap_label(label: str, width: int = _LABEL_LENGTH) -> str:
    """Wrap a long label; the first break is before its arguments."""
    parts = [label] if len(label) <= width else label.replace("(", "\0(", 1).split("\0")
    lines = [line for part in parts for line in textwrap.wrap(part.replace("_", "_ "), width)]
    return "\n".join(line.replace("_ ", "_") for line in lines)


def escape_math(label: str) -> str:
    """Escape `$`, so that matplotlib does not read a label as mathematics."""
    return label.replace("$", r"\$")


def sample_std(values: pd.Series[float]) -> float:
    """Return the sample standard deviation for an error bar; NaN for a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def add_banner(figure: Figure, text: str | None) -> None:
    """Write a line above the panels of a figure and increase its height accordingly; no text changes nothing.

    Args:
        figure: A figure with a constrained layout.
        text: The text, such as the note that the figure shows a rehearsal.
    """
    if not text:
        return
    width, height = (float(inches) for inches in figure.get_size_inches())
    lines = textwrap.wrap(text, int(_BANNER_DENSITY * width))
    figure.set_size_inches(width, height + 0.11 * len(lines) + 0.05)
    figure.suptitle(
        escape_math("\n".join(lines)), x=0.01, ha="left", fontsize=6.5, color=_BANNER_COLOR, fontweight="bold"
    )


def save(figure: Figure, path: Path | str) -> list[Path]:
    """Save a figure as PDF, SVG and PNG (300 dots per inch). The folder is created if needed.

    Args:
        figure: The figure.
        path: The path without a suffix.

    Returns:
        The three files.
    """
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": None}
    files = [base.with_name(f"{base.name}.{suffix}") for suffix in undated]
    with plot_style():
        for file, metadata in zip(files, undated.values(), strict=True):
            figure.savefig(file, dpi=300, metadata=metadata)
    return files
