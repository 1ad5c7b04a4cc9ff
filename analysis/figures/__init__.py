"""Plots tracked runs: one file per kind of plot, and one for their common style.

Each function takes a data frame and returns a matplotlib figure. The report and the command line look the functions up
by name here. Runs that were chosen on test data are left out, except where an option of a plot includes them.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.figures.corrupted_path_plots import best_on_path, path_under_corruption
from analysis.figures.corruption_plot import change_under_corruption
from analysis.figures.cost_plots import accuracy_against_cost, accuracy_against_predict_cost
from analysis.figures.critical_difference_plot import critical_difference_diagram
from analysis.figures.epoch_plot import over_epochs
from analysis.figures.member_count_plot import metric_against_members
from analysis.figures.method_comparison_plot import metric_by_method
from analysis.figures.noisy_quadratic_plot import loss_against_members
from analysis.figures.path_plot import scores_along_path
from analysis.figures.plane_and_flatness_plots import flatness, scores_on_plane
from analysis.figures.reliability_plot import reliability
from analysis.figures.style import save
from analysis.figures.tuning_plots import importances, tuning_history
from analysis.figures.value_sweep_plot import metric_against_value
from analysis.frame.quadratic_settings import load_settings

__all__ = [
    "FIGURES",
    "PLOTS",
    "accuracy_against_cost",
    "accuracy_against_predict_cost",
    "best_on_path",
    "change_under_corruption",
    "critical_difference_diagram",
    "flatness",
    "importances",
    "load_settings",
    "loss_against_members",
    "metric_against_members",
    "metric_against_value",
    "metric_by_method",
    "over_epochs",
    "path_under_corruption",
    "reliability",
    "save",
    "scores_along_path",
    "scores_on_plane",
    "tuning_history",
]

PLOTS: dict[str, Callable[..., Figure]] = {
    "cost": accuracy_against_cost,
    "predict-cost": accuracy_against_predict_cost,
    "ranks": critical_difference_diagram,
    "reliability": reliability,
    "members": metric_against_members,
    "path": scores_along_path,
    "plane": scores_on_plane,
    "flatness": flatness,
    "epochs": over_epochs,
    "corruption": change_under_corruption,
}
"""The plots that can be drawn of any study, by their command-line names."""

FIGURES: dict[str, Callable[..., Figure]] = PLOTS | {
    "value": metric_against_value,
    "methods": metric_by_method,
    "corrupted_path": path_under_corruption,
    "best_on_path": best_on_path,
}
"""All plots by the names that study files use. Each takes the frame, and options as keyword arguments."""
