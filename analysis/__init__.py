"""From the tracked runs to leaderboards, LaTeX tables and plots.

Importing this package imports neither MLflow nor matplotlib: `load_runs` and the names of `analysis.plots`
do so at their first use.
"""

from typing import TYPE_CHECKING, Any

from analysis.leaderboard import leaderboard, render
from analysis.metrics import METRICS, Metric, describe
from analysis.runs import load_arrays, load_predictions, load_runs, load_series, ranked
from analysis.statistics import relative_costs, summarize
from analysis.tables import document, latex

if TYPE_CHECKING:
    from analysis.noisy_quadratic import load_settings, loss_against_members
    from analysis.plots import (
        PLOTS,
        accuracy_against_cost,
        change_under_corruption,
        flatness,
        metric_against_members,
        over_epochs,
        reliability,
        save,
        scores_along_path,
        scores_on_plane,
    )

__all__ = [
    "METRICS",
    "PLOTS",
    "Metric",
    "accuracy_against_cost",
    "change_under_corruption",
    "describe",
    "document",
    "flatness",
    "latex",
    "leaderboard",
    "load_arrays",
    "load_predictions",
    "load_runs",
    "load_series",
    "load_settings",
    "loss_against_members",
    "metric_against_members",
    "over_epochs",
    "ranked",
    "relative_costs",
    "reliability",
    "render",
    "save",
    "scores_along_path",
    "scores_on_plane",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analysis import noisy_quadratic, plots

    return getattr(noisy_quadratic if name in ("load_settings", "loss_against_members") else plots, name)
