"""One look for all plots: sizes for a paper's column, colours that the colour-blind can tell apart."""

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
_MARKERS = "osD^vPX<>hp"  # 11 shapes and 8 colours meet in 88 pairs before one returns
_PALE_COLORS = (7, 8)  # of seaborn's colours: grey and a yellow too light for thin lines
_PLAIN_TRAINING = "sgd"  # plain training, which everything is compared with
_LABEL_LENGTH = 17  # characters of a name that fit above a small diagram
_NOTE_LENGTH = 55  # characters of a line of a note that fit into a column
_LEGEND_LINE = 0.155  # inches a line of a legend takes
_BANNER_DENSITY = 16  # characters of a banner that fit into an inch
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
    "pdf.fonttype": 42,  # text stays text, as publishers ask
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "economical-ensembles",  # the same figure is the same file
}


Color = tuple[float, float, float]


@dataclass(frozen=True)
class MethodStyle:
    """Colour and marker of one method; hollow once the colours start again."""

    color: Color
    marker: str
    hollow: bool = False

    def line_options(self) -> dict[str, Any]:
        """The keywords that draw it, for a line, its markers and its bars."""
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
    """Draw and save within this: nothing of it stays behind in matplotlib's settings."""
    settings: Any = sns.axes_style("whitegrid") | _RC_PARAMS
    with mpl.rc_context(settings):
        yield


def assign_styles(labels: Collection[str], plain_training: str = _PLAIN_TRAINING) -> dict[str, MethodStyle]:
    """Give every method a colour and a marker, the same in every plot of the same methods.

    Plain training is black; the others follow in the order of their names.

    Args:
        labels: The methods.
        plain_training: Which of them it is.
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
    """Give what sorts names as people count: "K = 5" before "K = 10"."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def method_styles(frame: pd.DataFrame) -> dict[str, MethodStyle]:
    """Give the looks of all methods of a frame; plain training is known by its method, whatever a study calls it."""
    called = set(frame.loc[frame["method"] == _PLAIN_TRAINING, "label"])
    return assign_styles(set(frame["label"]), called.pop() if len(called) == 1 else _PLAIN_TRAINING)


def dataset_groups(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a frame by dataset and architecture, each with its title."""
    parts = frame.groupby(DATASET_AND_ARCHITECTURE, sort=True)
    return [(" · ".join(map(str, cell)), rows) for cell, rows in parts]


def make_panels(count: int, height: float, legend: Sequence[str], note: str | None = None) -> tuple[Figure, list[Axes]]:
    """Make a figure of equal panels, a column wide each (two columns of them from three panels on).

    Args:
        count: The number of panels.
        height: Inches a panel is high.
        legend: The entries of the legend that goes below them.
        note: Its title.
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
    """How many inches a note below the panels takes."""
    return _LEGEND_LINE * len(note.split("\n")) if note else 0.0


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into a width in inches."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels) or 1, int(width / (0.3 + 0.056 * longest))))


def add_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str], title: str | None = None) -> None:
    """Put a legend below the panels."""
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


def draw_band(ax: Axes, x: np.ndarray, values: np.ndarray, look: MethodStyle, line: str = "-") -> None:
    """Draw the mean over seeds as a line, and a band of their sample standard deviation around it.

    Args:
        ax: Where.
        x: (n,).
        values: (seeds, n); NaN where a seed has none.
        look: The method's; up to seven markers are drawn.
        line: As matplotlib writes it.
    """
    table = pd.DataFrame(values)  # which leaves NaN out without a warning
    mean = table.mean().to_numpy()
    ax.plot(x, mean, linestyle=line, markevery=max(1, len(x) // 6), **look.line_options())
    if len(values) > 1:
        std = table.std(ddof=1).to_numpy()
        ax.fill_between(x, mean - std, mean + std, color=look.color, alpha=0.15, linewidth=0)


def note_missing_methods(frame: pd.DataFrame, drawn: Collection[str], what: str) -> str | None:
    """Say which methods have no such thing, in lines that fit below the panels; None if all have it."""
    others = sorted(set(frame["label"]) - set(drawn))
    return textwrap.fill(f"Without {what}: {', '.join(map(escape_math, others))}", _NOTE_LENGTH) if others else None


def wrap_label(label: str, width: int = _LABEL_LENGTH) -> str:
    """Break a long name, before its arguments if it has any."""
    parts = [label] if len(label) <= width else label.replace("(", "\0(", 1).split("\0")
    lines = [line for part in parts for line in textwrap.wrap(part.replace("_", "_ "), width)]
    return "\n".join(line.replace("_ ", "_") for line in lines)


def escape_math(label: str) -> str:
    """Write a name so that matplotlib does not read `$` as mathematics."""
    return label.replace("$", r"\$")


def sample_std(values: pd.Series[float]) -> float:
    """Sample standard deviation for an error bar; none (NaN) for a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def add_banner(figure: Figure, text: str | None) -> None:
    """Write a line above the panels of a figure, which grows by it; nothing for no text.

    Args:
        figure: In a constrained layout.
        text: What whoever sees the figure must know of it, such as that it shows a rehearsal.
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
    """Save a figure as PDF, SVG and PNG (300 dots an inch), making the folder if need be.

    Args:
        figure: What a function of this module returned.
        path: Where to, without a suffix.

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
