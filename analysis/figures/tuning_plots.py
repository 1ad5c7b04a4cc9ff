"""Plots a study's tuning: the trials of each method, and the importance of its hyperparameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from analysis.figures.style import (
    COLUMN_WIDTH,
    MethodStyle,
    add_legend,
    assign_styles,
    dataset_groups,
    escape_math,
    plot_style,
    wrap_label,
)

MIN_TRIALS = 4
"""The minimum number of finished trials for estimating importance."""
_ROW_HEIGHT = 1.35  # inches per method
_AXIS_LABELS = {"nll": "Validation NLL (nats)", "accuracy": "Validation accuracy (%)"}


def importances(trials: pd.DataFrame) -> dict[str, float]:
    """Estimate the importance of each hyperparameter.

    It is the share of the differences between finished trials that the hyperparameter explains.

    The estimate is fANOVA, a random forest over the trials (Hutter et al., An efficient approach for assessing
    hyperparameter importance, ICML 2014), with a fixed seed. PED-ANOVA, which compares the best tenth of the trials
    with the others, needs about fifty trials. With few trials, most of them near the best one, the estimates are rough.

    Args:
        trials: Rows of `load_tuning`, of one search.

    Returns:
        Hyperparameter → share, the largest first; the shares sum to one. Empty if there are fewer than `MIN_TRIALS`
        finished trials, or if all have the same value.
    """
    finished = trials[trials["state"] == "finished"]
    if len(finished) < MIN_TRIALS or finished["value"].nunique() < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    for row in finished.to_dict("records"):
        distributions: Mapping[str, BaseDistribution] = row["space"]
        study.add_trial(
            optuna.trial.create_trial(params=row["values"], distributions=dict(distributions), value=row["value"])
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def tuning_history(frame: pd.DataFrame) -> dict[str, Figure]:
    """Plot each method's trials with the best value so far, and next to them the importance of each hyperparameter.

    Each panel names its own metric, because methods may be tuned by different metrics. Dots are finished trials,
    crosses pruned trials at their last epoch, diamonds the study's own values. Diverged, failed and refused trials are
    not drawn.

    Args:
        frame: Rows of `load_tuning`.

    Returns:
        A figure for each dataset and architecture, by its title.
    """
    look = assign_styles(set(frame["label"]))
    figures = {}
    for title, rows in dataset_groups(frame):
        searches = list(rows.groupby("label", sort=True))
        across = min(2, len(searches))
        down = -(-len(searches) // across)
        with plot_style():
            figure = Figure(figsize=(COLUMN_WIDTH * across, _ROW_HEIGHT * down + 0.45), layout="constrained")
            axes = figure.subplots(down, 2 * across, squeeze=False, width_ratios=[1.7, 1.0] * across).reshape(-1, 2)
            for (left, right), (label, trials) in zip(axes, searches, strict=False):
                _draw_history(left, str(label), trials, look[str(label)])
                _draw_importances(right, importances(trials), look[str(label)])
            for unused in axes[len(searches) :].ravel():
                unused.remove()
            figure.suptitle(escape_math(title), fontsize=8)
            add_legend(figure, *_legend_entries())
        figures[title] = figure
    return figures


def _draw_history(ax: Axes, label: str, trials: pd.DataFrame, look: MethodStyle) -> None:
    finished, pruned = (trials[(trials["state"] == s) & trials["value"].notna()] for s in ("finished", "pruned"))
    lower = trials["metric"].iloc[0] == "nll"
    if len(finished):
        best = finished["value"].cummin() if lower else finished["value"].cummax()
        ax.step(
            [*finished["number"], trials["number"].max()],
            [*best, best.iloc[-1]],
            where="post",
            color=look.color,
            lw=1.1,
        )
    for rows, marker in ((finished[finished["number"] > 0], "o"), (finished[finished["number"] == 0], "D")):
        ax.plot(rows["number"], rows["value"], marker, color=look.color, markersize=3.2)
    ax.plot(pruned["number"], pruned["value"], "x", color=look.color, markersize=3.4, markeredgewidth=0.8, alpha=0.6)
    if lower and (trials["value"].dropna() > 0).all():
        ax.set_yscale("log")
        low, high = trials["value"].min(), trials["value"].max()
        ax.yaxis.set_major_locator(MaxNLocator(4) if high < 4 * low else LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        ax.yaxis.set_major_formatter("{x:.3g}")
        ax.yaxis.set_minor_formatter("")
    ax.set_title(escape_math(label if len(label) < 34 else wrap_label(label)), fontsize=7)
    ax.set_xlabel("Trial", fontsize=7)
    ax.set_ylabel(_AXIS_LABELS[str(trials["metric"].iloc[0])].replace(" (", "\n("), fontsize=6)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.tick_params(labelsize=6)


def _draw_importances(ax: Axes, found: Mapping[str, float], look: MethodStyle) -> None:
    names = list(found)[::-1]
    ax.set_xlim(0, 1)
    ax.set_xlabel("Importance" if names else "", fontsize=7)
    ax.tick_params(labelsize=6)
    ax.grid(visible=False, axis="y")
    if not names:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "too few trials\nfor importance", ha="center", va="center", fontsize=6, color="0.4")
        return
    places = np.arange(len(names))
    ax.barh(places, [found[name] for name in names], color=look.color, height=0.6, alpha=0.8)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_yticks(places, [escape_math(f"….{name.rpartition('.')[2]}" if len(name) > 16 else name) for name in names])


def _legend_entries() -> tuple[list[Line2D], list[str]]:
    marks = {"finished": "o", "the study's own values": "D", "pruned, at its last epoch": "x"}
    handles = [Line2D([], [], color="0.3", marker=m, linestyle="", markersize=3.4) for m in marks.values()]
    return [*handles, Line2D([], [], color="0.3")], [*marks, "best so far"]
