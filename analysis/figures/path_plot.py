"""Plots scores along the path between a method's networks.

Runs that were chosen on test data are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.plot_function import check_choice, plot_function
from analysis.figures.style import (
    MethodStyle,
    add_legend,
    dataset_groups,
    draw_band,
    escape_math,
    make_panels,
    method_styles,
    note_missing_methods,
)
from analysis.frame.metric_display import METRICS
from analysis.frame.relative_costs import find_plain_training
from analysis.frame.run_arrays import load_arrays
from analysis.frame.runs import ranked

PathArrays = Mapping[str, Mapping[str, np.ndarray]]
"""run_id → the arrays of its path, by name."""
POINT_TITLES = {"one": "P(α)", "pair": "P(α), P(1 − α)"}
"""The networks that are scored at each α, and their titles in plots."""
AVERAGE_PREFIXES = {"probabilities": "pair_", "logits": "logit_pair_"}
"""What a pair of networks averages, and the prefix of the corresponding arrays."""
LINE_STYLES: dict[str, Literal["--", "-"]] = {"one": "--", "pair": "-"}
"""The line styles of one network and of a pair in the same panel."""
_PANEL_POINTS = {"apart": (("one",), ("pair",)), "one": (("one",),), "pair": (("pair",),), "both": (("one", "pair"),)}
_REFERENCE_DASHES = ((6.0, 1.5, 1.0, 1.5), (6.0, 1.5, 1.0, 1.5, 1.0, 1.5), (8.0, 2.0))


@plot_function
def scores_along_path(
    frame: pd.DataFrame,
    metric: Literal["accuracy", "nll"] = "accuracy",
    *,
    points: Literal["apart", "one", "pair", "both"] = "apart",
    references: Sequence[str] = (),
    average: Literal["probabilities", "logits"] = "probabilities",
) -> Figure:
    """Plot a score along the path between a method's first two networks.

    The score is that of the network P(α), or of P(α) and P(1 − α) together. The dotted line is plain training. Lines
    are means over seeds, bands sample standard deviations. The axis is limited so that a barrier does not fill the
    panel.

    Args:
        frame: Rows of `load_runs`. Their path arrays are loaded; plain training and references use the metric's column.
        metric: "accuracy" or "nll".
        points: "one" for P(α) and "pair" for P(α) and P(1 − α), in one panel per dataset and architecture; "apart" for
            one panel each; "both" for one panel with P(α) dashed and the pair solid (Wortsman et al., Figure 6).
        references: Labels of entries that are drawn as horizontal lines, even if they have a path; for example an
            ensemble of two networks.
        average: What a pair averages: "probabilities" or "logits". References with several members use the same.

    Raises:
        LookupError: If no run has a path, or not with such averages; if a reference has no finished run.
        ValueError: For an unknown value of an option.
    """
    check_path_options(metric, average)
    check_choice("points", points, _PANEL_POINTS)
    frame = ranked(frame)
    arrays = load_arrays(frame, "path")
    _check_references(frame, references)
    drawn = frame[frame["run_id"].isin(arrays) & ~frame["label"].isin(references)]
    look = method_styles(frame)
    on_path = [label for label in look if label in set(drawn["label"])]
    parts = [(title, rows, kinds) for title, rows in dataset_groups(drawn) for kinds in _PANEL_POINTS[points]]
    levels = horizontal_levels(frame, metric, references, average)
    handles, names = _legend_entries(look, on_path, references, levels, both=points == "both")
    others = frame[(frame["method"] != "sgd") & ~frame["label"].isin(references)]
    note = note_missing_methods(others, on_path, "a path")
    figure, axes = make_panels(len(parts), 1.9, names, note)
    for ax, (title, rows, kinds) in zip(axes, parts, strict=True):
        shown = _draw_levels(ax, levels.get(title, {}), look, references)
        for label, runs in rows.groupby("label"):
            for kind in kinds:
                line = LINE_STYLES[kind] if len(kinds) > 1 else "-"
                prefix = "" if kind == "one" else AVERAGE_PREFIXES[average]
                shown += draw_path(ax, runs, arrays, prefix + metric, look[str(label)], line)
        limit_score_axis(ax, shown, better=METRICS[metric].better)
        below = f"\n{POINT_TITLES[kinds[0]]}" if len(kinds) == 1 else ""
        ax.set(title=escape_math(title) + below, xlabel="α", ylabel=METRICS[metric].header)
    add_legend(figure, handles, names, title=note)
    return figure


def check_path_options(metric: str, average: str) -> None:
    """Check the metric and the average of a path plot.

    Raises:
        ValueError: If one is unknown. The message lists the known values.
    """
    check_choice("metric", metric, ("accuracy", "nll"))
    check_choice("average", average, AVERAGE_PREFIXES)


def draw_path(ax: Axes, runs: pd.DataFrame, arrays: PathArrays, name: str, look: MethodStyle, line: str) -> list[float]:
    """Draw one array of the paths of an entry's runs, and return the values that must be visible.

    Raises:
        LookupError: If a run's path does not have the array.
    """
    found = [arrays[run] for run in runs["run_id"]]
    if any(name not in path for path in found):
        known = ", ".join(sorted(set.intersection(*(set(path) for path in found)) - {"alpha"}))
        raise LookupError(f"the path of {runs['label'].iloc[0]} has no {name}; it has: {known}")
    alpha = found[0]["alpha"]
    scores = np.stack([path[name] for path in found])  # (seeds, points)
    draw_band(ax, alpha, scores, look, line)
    if alpha[0] < 0:
        for end in (0, 1):
            ax.axvline(end, color="0.7", linewidth=0.5, zorder=0.5)
    mean = scores.mean(0)
    return [mean[0], mean[-1], mean.max(), mean.min() if name.endswith("nll") else mean.max()]


def horizontal_levels(
    frame: pd.DataFrame, metric: str, references: Sequence[str], average: str
) -> dict[str, dict[str, float]]:
    """Return the horizontal lines of each dataset and architecture: the means of plain training ("") and of references.

    There is no line of plain training if it has several entries, because none of them is the reference.
    """
    found: dict[str, dict[str, float]] = {}
    for title, rows in dataset_groups(frame):
        values = rows[metric]
        if average == "logits" and f"logit_average/{metric}" in rows:
            values = rows[f"logit_average/{metric}"].fillna(values)
        means = {label: values[rows["label"] == label].mean() for label in references}
        means[""] = values[find_plain_training(rows)[0].index].mean()
        found[title] = {label: float(mean) for label, mean in means.items() if not np.isnan(mean)}
    return found


def _check_references(frame: pd.DataFrame, references: Sequence[str]) -> None:
    if isinstance(references, str):
        raise ValueError(f"references must be a list of labels, as in [{references}]")
    known = sorted(set(frame["label"]))
    for label in references:
        if label not in known:
            raise LookupError(f"no finished run of the reference {label!r}; there are: {', '.join(known)}")


def _draw_levels(
    ax: Axes, levels: Mapping[str, float], look: Mapping[str, MethodStyle], references: Sequence[str]
) -> list[float]:
    for label, level in levels.items():
        if label:
            ax.axhline(level, color=look[label].color, linestyle=_reference_line_style(label, references))
        else:
            ax.axhline(level, color="black", linestyle=":")
    return list(levels.values())


def _reference_line_style(label: str, references: Sequence[str]) -> tuple[float, tuple[float, ...]]:
    return 0.0, _REFERENCE_DASHES[list(references).index(label) % len(_REFERENCE_DASHES)]


def _legend_entries(
    look: Mapping[str, MethodStyle],
    on_path: Sequence[str],
    references: Sequence[str],
    levels: Mapping[str, Mapping[str, float]],
    *,
    both: bool,
) -> tuple[list[Line2D], list[str]]:
    """Return the legend's lines and names."""
    handles = [Line2D([], [], **look[label].line_options()) for label in on_path]
    names = list(on_path)
    for label in references:
        handles.append(Line2D([], [], color=look[label].color, linestyle=_reference_line_style(label, references)))
        names.append(label)
    if any("" in each for each in levels.values()):
        handles.append(Line2D([], [], color="black", linestyle=":"))
        names.append("plain training")
    if both:
        handles += [Line2D([], [], color="0.35", linestyle=LINE_STYLES[kind]) for kind in POINT_TITLES]
        names += POINT_TITLES.values()
    return handles, names


def limit_score_axis(ax: Axes, shown: list[float], better: Literal["higher", "lower"] | None) -> None:
    """Limit the axis to the given values, with some room towards worse values, so that a barrier does not fill it."""
    low, high = min(shown), max(shown)
    room = max(0.5 * (high - low), 1e-9)
    below, above = (room, 0.3 * room) if better == "higher" else (0.3 * room, room)
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, low - below), min(top, high + above))
