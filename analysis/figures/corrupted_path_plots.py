"""Plots networks on a path under corruptions: all networks, and the best network compared with plain training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.corruption_plot import CHANGE_PREFIXES, draw_differences, relative_change_columns
from analysis.figures.path_plot import (
    AVERAGE_PREFIXES,
    LINE_STYLES,
    POINT_TITLES,
    PathArrays,
    check_path_options,
    draw_path,
    limit_score_axis,
)
from analysis.figures.plot_function import check_name_list, plot_function
from analysis.figures.style import (
    COLUMN_WIDTH,
    MethodStyle,
    add_legend,
    assign_styles,
    dataset_groups,
    draw_band,
    escape_math,
    legend_columns,
)
from analysis.frame.metric_display import METRICS
from analysis.frame.relative_costs import find_plain_training
from analysis.frame.run_arrays import load_arrays
from analysis.frame.runs import ranked

TRACKED_SEVERITY = 3
"""The severity of the corruptions for which runs track the relative change of accuracy."""
_PANELS_PER_ROW = 4  # panels side by side across two columns
_ALPHA_TOLERANCE = 1e-9  # tolerance when looking up an α
_HOW_TO_MEASURE = "add `evaluate: {path: {corruptions: [fog, …], severities: [3, …]}}` to the study"


@plot_function
def path_under_corruption(
    frame: pd.DataFrame,
    metric: Literal["accuracy", "nll"] = "accuracy",
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    between: Sequence[float] = (0.0, 1.0),
    average: Literal["probabilities", "logits"] = "probabilities",
) -> Figure:
    """Plot scores along paths on clean and corrupted test data, one row per method, dataset and architecture.

    The panels of a row: clean data, then each corruption with a line per severity. Dashed lines are the network P(α),
    solid lines P(α) and P(1 − α) together. The dotted line is plain training's accuracy (under corruption only at
    severity 3, which is tracked). The last panel shows the relative difference (a − b) / b of two networks on the path
    over the severity, 0 for clean data, with a line per corruption. Lines are means over seeds, bands sample standard
    deviations.

    Args:
        frame: Rows of `load_runs`; their arrays are loaded.
        metric: "accuracy" or "nll".
        corruptions: The corruptions; None for all that were measured.
        severities: The severities; None for all that were measured.
        between: The α of the networks a and b.
        average: What a pair averages: "probabilities" or "logits".

    Raises:
        LookupError: If no path was measured under these corruptions and severities, or not at such an α.
        ValueError: For an unknown value of an option.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 4.4 and Figure 9. The paper does not say
        which two networks it compares; we choose the ends.
    """
    check_path_options(metric, average)
    if len(between) != 2:
        raise ValueError(f"between must be two positions on the path, as in [0, 1]; got {between!r}")
    frame = ranked(frame)
    arrays = load_arrays(frame, "path")
    names, levels = _select_corruptions(arrays, corruptions, severities)
    wanted = {f"{name}_{level}_{metric}" for name in names for level in levels}
    drawn = frame[[wanted <= set(arrays.get(run, ())) for run in frame["run_id"]]]
    if drawn.empty:
        raise LookupError(f"no path was measured under {', '.join(names)} at severities {levels}; {_HOW_TO_MEASURE}")
    shades = dict(zip(levels, sns.color_palette("crest", len(levels)), strict=True))
    look = {0: MethodStyle((0.2, 0.2, 0.2), ""), **{level: MethodStyle(shade, "") for level, shade in shades.items()}}
    baselines = _plain_training_scores(frame, metric)
    handles, entries = _legend_entries(look, names, dotted=bool(baselines))
    rows = [(title, label, runs) for title, each in dataset_groups(drawn) for label, runs in each.groupby("label")]
    figure, axes = _make_panel_rows([f"{label} · {title}" for title, label, _ in rows], len(names) + 2, entries)
    for row, (title, _, runs) in zip(axes, rows, strict=True):
        for ax, name in zip(row, ("", *names), strict=False):
            shown = [baselines[title, name]] if (title, name) in baselines else []
            for level in levels if name else (0,):
                for kind in POINT_TITLES:
                    prefix = (f"{name}_{level}_" if name else "") + ("" if kind == "one" else AVERAGE_PREFIXES[average])
                    shown += draw_path(ax, runs, arrays, prefix + metric, look[level], LINE_STYLES[kind])
            if (title, name) in baselines:
                ax.axhline(
                    baselines[title, name], color="black" if not name else shades[TRACKED_SEVERITY], linestyle=":"
                )
            limit_score_axis(ax, shown, METRICS[metric].better)
            ax.set_title(name.replace("_", " ") or "clean", fontsize=7, pad=3)
            ax.set_xlabel("α", fontsize=7)
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        row[0].set_ylabel(METRICS[metric].header, fontsize=7)
        _draw_difference(row[-1], [arrays[run] for run in runs["run_id"]], names, levels, metric, between)
    add_legend(figure, handles, entries)
    return figure


@plot_function
def best_on_path(frame: pd.DataFrame, *, corruptions: Sequence[str] | None = None) -> Figure:
    """Plot relative changes of the accuracy of the best network on the path, compared with those of plain training.

    As in `change_under_corruption`, but each bar uses the network P(α), 0 ≤ α ≤ 1, that loses the least accuracy, for
    each run and corruption. α is chosen on the test data, which the figure says: it shows which networks the path
    contains, not how to find them.

    Args:
        frame: Rows of `load_runs`; their arrays are loaded.
        corruptions: The corruptions; None for all under which both paths and plain training were measured.

    Raises:
        LookupError: If no path was measured under corruptions of severity 3, or plain training was not.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, appendix G and Figure 20 (11 points).
    """
    frame = ranked(frame)
    prefix, columns = relative_change_columns(frame)
    arrays = load_arrays(frame, "path")
    there, _ = _select_corruptions(arrays, corruptions, [TRACKED_SEVERITY])
    names = [name for name in there if prefix + name in columns]
    if not names:
        raise LookupError(f"plain training was not measured under {', '.join(there)}, the corruptions of the path")
    wanted = {f"{name}_{TRACKED_SEVERITY}_accuracy" for name in names}
    on_path = frame[[wanted <= set(arrays.get(run, ())) for run in frame["run_id"]]].copy()
    for name in names:
        on_path[prefix + name] = [_best_relative_change(arrays[run], name) for run in on_path["run_id"]]
    kind = "" if prefix == CHANGE_PREFIXES[0] else " (generated corruptions)"
    title = f"Relative change of accuracy{kind}, minus plain training's: best α on the path, chosen on test data"
    together = pd.concat([frame[frame["method"] == "sgd"], on_path[on_path["method"] != "sgd"]])
    return draw_differences(together, [prefix + name for name in names], title)


def _select_corruptions(
    arrays: PathArrays, corruptions: Sequence[str] | None, severities: Sequence[int] | None
) -> tuple[list[str], list[int]]:
    """Return the corruptions and severities to draw: the given ones, or all under which a path was measured.

    Raises:
        LookupError: If no path was measured under any corruption, or under a given one.
    """
    found = [re.fullmatch(r"(\w+)_(\d)_accuracy", key) for path in arrays.values() for key in path]
    measured = list(dict.fromkeys((match[1], int(match[2])) for match in found if match))
    if not measured:
        raise LookupError(f"no path was measured under corruptions; {_HOW_TO_MEASURE}")
    names = (
        list(dict.fromkeys(name for name, _ in measured))
        if corruptions is None
        else check_name_list("corruptions", corruptions)
    )
    levels = sorted({level for _, level in measured} if severities is None else set(severities))
    for name in names:
        for level in levels:
            if (name, level) not in measured:
                known = ", ".join(f"{name} {level}" for name, level in measured)
                raise LookupError(f"no path was measured under {name} of severity {level}; there is: {known}")
    return names, levels


def _plain_training_scores(frame: pd.DataFrame, metric: str) -> dict[tuple[str, str], float]:
    """Return the tracked scores of plain training by title and corruption, "" for clean data."""
    found: dict[tuple[str, str], float] = {}
    for title, runs in dataset_groups(frame):
        rows, why = find_plain_training(runs)
        if why:
            continue
        found[title, ""] = float(rows[metric].mean())
        changes = [str(name) for name in rows if str(name).startswith(CHANGE_PREFIXES) and rows[name].notna().any()]
        for name in changes if metric == "accuracy" else ():
            found[title, name.rpartition("/")[2]] = float((rows["accuracy"] * (1 + rows[name])).mean())
    return found


def _make_panel_rows(titles: Sequence[str], count: int, entries: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """Make a row of panels for each title."""
    across = min(count, _PANELS_PER_ROW)
    down = -(-count // across)
    width = 2 * COLUMN_WIDTH * across / _PANELS_PER_ROW
    lines = -(-len(entries) // legend_columns(entries, width))
    height = len(titles) * (1.45 * down + 0.2) + 0.155 * lines + 0.12
    figure = Figure(figsize=(width, height), layout="constrained")
    blocks = figure.subfigures(len(titles), 1, squeeze=False)[:, 0]
    axes = []
    for block, title in zip(blocks, titles, strict=True):
        block.suptitle(escape_math(title), fontsize=7.5)
        panels = block.subplots(down, across, squeeze=False).ravel()
        for unused in panels[count:]:
            unused.remove()
        for ax in panels[:count]:
            ax.tick_params(labelsize=6)
        axes.append(list(panels[:count]))
    return figure, axes


def _draw_difference(
    ax: Axes,
    paths: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    levels: Sequence[int],
    metric: str,
    between: Sequence[float],
) -> None:
    """Draw the relative difference of two networks on a path over the severity."""
    for name, look in assign_styles(names).items():
        values = np.array(
            [_relative_differences(path, name, levels, metric, between) for path in paths]
        )  # (seeds, 1 + levels)
        draw_band(ax, np.array([0.0, *levels]), values, look)
    ax.axhline(0, color="0.3", linewidth=0.6, zorder=0.5)
    ax.set_xticks([0, *levels])
    ax.set_xlabel("Severity", fontsize=7)
    ax.set_ylabel("Relative difference (%)", fontsize=6.5)
    ax.set_title(f"α = {between[0]:g} against {between[1]:g}", fontsize=7, pad=3)


def _relative_differences(
    path: Mapping[str, np.ndarray], name: str, levels: Sequence[int], metric: str, between: Sequence[float]
) -> list[float]:
    a, b = (_index_of_alpha(path["alpha"], alpha) for alpha in between)
    scores = [path[metric], *(path[f"{name}_{level}_{metric}"] for level in levels)]
    return [100 * _relative_difference(score[a], score[b]) for score in scores]


def _index_of_alpha(alpha: np.ndarray, wanted: float) -> int:
    nearest = int(np.abs(alpha - wanted).argmin())
    if abs(alpha[nearest] - wanted) > _ALPHA_TOLERANCE:
        raise LookupError(f"no path was measured at α = {wanted:g}, but at {', '.join(f'{a:g}' for a in alpha)}")
    return nearest


def _best_relative_change(path: Mapping[str, np.ndarray], name: str) -> float:
    on = (path["alpha"] >= -_ALPHA_TOLERANCE) & (path["alpha"] <= 1 + _ALPHA_TOLERANCE)
    pairs = zip(path[f"{name}_{TRACKED_SEVERITY}_accuracy"][on], path["accuracy"][on], strict=True)
    return float(np.nanmax([_relative_difference(corrupted, clean) for corrupted, clean in pairs]))


def _relative_difference(value: float, reference: float) -> float:
    """Return (value − reference) / reference; NaN for a reference of zero."""
    return float((value - reference) / reference) if reference else float("nan")


def _legend_entries(
    look: Mapping[int, MethodStyle], names: Sequence[str], *, dotted: bool
) -> tuple[list[Line2D], list[str]]:
    handles = [Line2D([], [], color=each.color) for level, each in look.items() if level]
    entries = [f"severity {level}" for level in look if level]
    handles += [Line2D([], [], color="0.35", linestyle=LINE_STYLES[kind]) for kind in POINT_TITLES]
    entries += POINT_TITLES.values()
    if dotted:
        handles.append(Line2D([], [], color="black", linestyle=":"))
        entries.append("plain training")
    for name, each in assign_styles(names).items():
        handles.append(Line2D([], [], **each.line_options()))
        entries.append(f"{name.replace('_', ' ')} (last panel)")
    return handles, entries
