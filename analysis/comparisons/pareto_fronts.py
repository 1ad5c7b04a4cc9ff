"""Which methods no other one beats in quality and cost at once."""

from __future__ import annotations

import pandas as pd

from analysis.frame.metric_display import describe
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import (
    DATASET_AND_ARCHITECTURE,
    default_metric,
    group_title,
    lower_is_better_means,
    relative_costs,
    summarize,
)

COST_NAMES = {"train_cost": "train", "predict_cost": "predict"}
"""The costs that quality is weighed against, relative to one network, and what a reader calls them for short."""


def pareto_fronts(frame: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Find the entries on the Pareto fronts of quality against training cost and against prediction cost.

    An entry is on a front unless another one of the same dataset and architecture dominates it: is no worse in both
    quality and cost, and better in one. Means over seeds decide. Costs count as they are written, to two decimals:
    those that read the same are the same. Entries equal in both do not dominate each other.

    Args:
        frame: Rows of `load_runs` (those chosen on test data are left out).
        by: The metric of quality; None for that of a leaderboard.

    Returns:
        One row an entry: `dataset`, `architecture`, `label`, `method`, `<by>_mean`, `train_cost_mean`,
        `predict_cost_mean` (relative to plain training of one network), `train_front` and `predict_front`: booleans, NA
        where quality or cost is not known or neither direction of the metric is better. `attrs["notes"]` names the
        entries without a cost.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, or the frame mixes what does not belong in one table.
    """
    by = by or default_metric(frame)
    board = summarize(relative_costs(ranked(frame)))
    if f"{by}_mean" not in board:
        raise ValueError(f"no run has {by!r} to weigh against cost")
    for cost in COST_NAMES:
        if f"{cost}_mean" not in board:
            board[f"{cost}_mean"] = float("nan")
    fronts, notes = find_fronts(board, by)
    names = [*DATASET_AND_ARCHITECTURE, "label", "method", f"{by}_mean", *(f"{cost}_mean" for cost in COST_NAMES)]
    out = pd.concat([board[names], fronts], axis=1)
    out.attrs["notes"] = notes
    return out


def find_fronts(board: pd.DataFrame, by: str) -> tuple[pd.DataFrame, list[str]]:
    """Do the work of `pareto_fronts` for the rows of `summarize`.

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
        free = board[costs.isna()]
        named = [
            f"{', '.join(rows['label'])} ({group_title(cell)})" for cell, rows in free.groupby(DATASET_AND_ARCHITECTURE)
        ]
        if named:
            notes.append(f"No {what} cost known, so on no front and within no budget: {'; '.join(named)}.")
    return fronts, notes


def is_undominated(points: pd.DataFrame) -> pd.Series[bool]:
    """Say which points no other one dominates; in both columns, smaller is better.

    Args:
        points: Columns quality and cost.
    """
    order = points.sort_values(["cost", "quality"])
    cheaper = (
        order.groupby("cost")["quality"].min().astype(float).cummin().shift(fill_value=float("inf"))
    )  # best of all cheaper ones
    best = order.groupby("cost")["quality"].transform("min")
    on_front = (order["quality"] == best) & (order["quality"] < order["cost"].map(cheaper))
    return on_front.reindex(points.index)


def front_column(cost: str) -> str:
    """Name the column that says whether an entry is on the front of quality against a cost."""
    return cost.replace("cost", "front")
