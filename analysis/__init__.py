"""From the tracked runs to leaderboards, LaTeX tables, plots and a report.

Importing this package imports neither MLflow nor matplotlib: `load_runs` and the names of `analysis.plots`
do so at their first use.
"""

from typing import TYPE_CHECKING, Any

from analysis.arrays import load_arrays, load_predictions
from analysis.budget import best_within_budget
from analysis.comparison_tables import latex_budgets, latex_comparisons, latex_ranks
from analysis.friedman import average_ranks
from analysis.leaderboard import leaderboard, render
from analysis.metrics import METRICS, Metric, describe
from analysis.page import Column, Drawing, Row, Section, Table, Value, write_page
from analysis.paired import paired_differences
from analysis.paper import compare, render_paper
from analysis.pareto import pareto_fronts
from analysis.provenance import load_provenance
from analysis.report import report
from analysis.report_tables import beside_paper
from analysis.runs import load_runs, load_series, ranked
from analysis.statistics import relative_costs, summarize
from analysis.tables import document, label_of, latex

if TYPE_CHECKING:
    from analysis.noisy_quadratic import load_settings, loss_against_members
    from analysis.plots import (
        FIGURES,
        PLOTS,
        accuracy_against_cost,
        accuracy_against_predict_cost,
        best_on_path,
        change_under_corruption,
        critical_difference_diagram,
        flatness,
        metric_against_members,
        metric_against_value,
        metric_by_method,
        over_epochs,
        path_under_corruption,
        reliability,
        save,
        scores_along_path,
        scores_on_plane,
    )
    from analysis.tuning import importances, load_tuning, tuning_history

__all__ = [
    "FIGURES",
    "METRICS",
    "PLOTS",
    "Column",
    "Drawing",
    "Metric",
    "Row",
    "Section",
    "Table",
    "Value",
    "accuracy_against_cost",
    "accuracy_against_predict_cost",
    "average_ranks",
    "beside_paper",
    "best_on_path",
    "best_within_budget",
    "change_under_corruption",
    "compare",
    "critical_difference_diagram",
    "describe",
    "document",
    "flatness",
    "importances",
    "label_of",
    "latex",
    "latex_budgets",
    "latex_comparisons",
    "latex_ranks",
    "leaderboard",
    "load_arrays",
    "load_predictions",
    "load_provenance",
    "load_runs",
    "load_series",
    "load_settings",
    "load_tuning",
    "loss_against_members",
    "metric_against_members",
    "metric_against_value",
    "metric_by_method",
    "over_epochs",
    "paired_differences",
    "pareto_fronts",
    "path_under_corruption",
    "ranked",
    "relative_costs",
    "reliability",
    "render",
    "render_paper",
    "report",
    "save",
    "scores_along_path",
    "scores_on_plane",
    "summarize",
    "tuning_history",
    "write_page",
]


_LATER = dict.fromkeys(("load_settings", "loss_against_members"), "noisy_quadratic")
_LATER |= dict.fromkeys(("importances", "load_tuning", "tuning_history"), "tuning")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"analysis.{_LATER.get(name, 'plots')}"), name)
