"""Finds the methods on the Pareto fronts of quality against cost."""

from __future__ import annotations

import pandas as pd

from analysis.frame.metric_display import describe
from analysis.frame.relative_costs import relative_costs
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import (
    DATASET_AND_ARCHITECTURE,
    default_metric,
    group_title,
    lower_is_better_means,
    summarize,
)

COST_NAMES = {"train_cost": "train", "predict_cost": "predict"}
"""The relative costs that quality is compared with, and their short names for readers."""


def pareto_fronts(frame: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Find the entries on the Pareto fronts of quality against training cost and against prediction cost.

    An entry is on a front unless another entry of the same dataset and architecture dominates it: it is no worse in
    both quality and cost, and better in one. Means over seeds are compared. Costs are rounded to two decimals, as
    tables show them. Entries equal in both do not dominate each other.

    Args:
        frame: Rows of `load_runs` (those chosen on test data are left out).
        by: The metric of quality; None for the metric of a leaderboard.

    Returns:
        One row per entry: `dataset`, `architecture`, `label`, `method`, `<by>_mean`, `train_cost_mean`,
        `predict_cost_mean` (relative to plain training of one network), `train_front` and `predict_front`. The last two
        are booleans, NA where quality or cost is unknown or neither direction of the metric is better. `attrs["notes"]`
        names the entries without a cost.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, or the frame mixes rows that must not be in one table.
    """
    by = by or default_metric(frame)
    board = summarize(relative_costs(ranked(frame)))
    if f"{by}_mean" not in board:
        raise ValueError(f"no run has {by!r} to compare with cost")
    for cost in COST_NAMES:
        if f"{cost}_mean" not in board:
            board[f"{cost}_mean"] = float("nan")
    fronts, notes = find_fronts(board, by)
    names = [*DATASET_AND_ARCHITECTURE, "label", "method", f"{by}_mean", *(f"{cost}_mean" for cost in COST_NAMES)]
    out = pd.concat([board[names], fronts], axis=1)
    out.attrs["notes"] = notes
    return out


def find_fronts(board: pd.DataFrame, by: str) -> tuple[pd.DataFrame, list[str]]:
    """Find the Pareto fronts among the rows of `summarize`, as `pareto_fronts` does.

    Returns:
        The columns train_front and predict_front, with the board's index; and the notes.
    """
    unknown = pd.array([pd.NA] * len(board), dtype="boolean")
    fronts = pd.DataFrame({front_column(cost): unknown for cost in COST_NAMES}, index=board.index)
    notes = []
    for cost, what in COST_NAMES.items():
        if f"{cost}_mean" not in board or board[f"{cost}_mean"].isna().all():
            continue  # `relative_costs` has said why
        costs = board[f"{cost}_mean"].round(2)
        if describe(by).better is not None:
            points = pd.DataFrame({"quality": lower_is_better_means(board, by), "cost": costs}).dropna()
            for _, rows in points.groupby([board[name] for name in DATASET_AND_ARCHITECTURE]):
                fronts.loc[rows.index, front_column(cost)] = is_undominated(rows)
        without_cost = board[costs.isna()]
        named = [
            f"{', '.join(rows['label'])} ({group_title(cell)})"
            for cell, rows in without_cost.groupby(DATASET_AND_ARCHITECTURE)
        ]
        if named:
            notes.append(f"Unknown {what} cost, so on no front and within no budget: {'; '.join(named)}.")
    return fronts, notes


def is_undominated(points: pd.DataFrame) -> pd.Series[bool]:
    """Return for each point whether no other point dominates it; in both columns, lower is better.

    Args:
        points: Columns quality and cost.
    """
    order = points.sort_values(["cost", "quality"])
    cheaper = (
        order.groupby("cost")["quality"].min().astype(float).cummin().shift(fill_value=float("inf"))
    )  # the best quality at any lower cost
    best = order.groupby("cost")["quality"].transform("min")
    on_front = (order["quality"] == best) & (order["quality"] < order["cost"].map(cheaper))
    return on_front.reindex(points.index)


def front_column(cost: str) -> str:
    """Return the name of the column that says whether an entry is on the front of quality against a cost."""
    return cost.replace("cost", "front")
