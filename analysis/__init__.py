"""Turns tracked runs into leaderboards, LaTeX tables, plots and a report.

Importing this package imports neither MLflow nor matplotlib. `load_runs` imports MLflow only for a tracking server. The
names of `analysis.figures` import matplotlib at their first use.
"""

from typing import TYPE_CHECKING, Any

from analysis.comparisons.average_ranks import average_ranks
from analysis.comparisons.best_within_budget import best_within_budget
from analysis.comparisons.leaderboard import leaderboard
from analysis.comparisons.paired_differences import paired_differences
from analysis.comparisons.pareto_fronts import pareto_fronts
from analysis.comparisons.published_comparison import compare
from analysis.frame.metric_display import METRICS, Metric, describe
from analysis.frame.relative_costs import relative_costs
from analysis.frame.run_arrays import load_arrays, load_predictions
from analysis.frame.run_provenance import load_provenance
from analysis.frame.runs import load_runs, load_series, ranked
from analysis.frame.seed_statistics import summarize
from analysis.frame.tuning_trials import load_tuning
from analysis.reports.page_elements import Column, Drawing, Row, Section, Table, Value
from analysis.reports.report import report
from analysis.reports.table_sections import beside_paper
from analysis.reports.web_page import write_page
from analysis.tables.latex_budgets_and_ranks import latex_budgets, latex_comparisons, latex_ranks
from analysis.tables.latex_document import document, label_of
from analysis.tables.latex_leaderboard import latex
from analysis.tables.leaderboard_tables import render
from analysis.tables.published_comparison_tables import render_paper

if TYPE_CHECKING:
    from analysis.figures import (
        FIGURES,
        PLOTS,
        accuracy_against_cost,
        accuracy_against_predict_cost,
        best_on_path,
        change_under_corruption,
        critical_difference_diagram,
        flatness,
        importances,
        load_settings,
        loss_against_members,
        metric_against_members,
        metric_against_value,
        metric_by_method,
        over_epochs,
        path_under_corruption,
        reliability,
        save,
        scores_along_path,
        scores_on_plane,
        tuning_history,
    )

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analysis import figures

    return getattr(figures, name)
