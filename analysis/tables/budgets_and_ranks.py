"""Makes the tables below a leaderboard: the best methods within budgets, and average ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.comparisons.average_ranks import average_ranks, explain_ranks
from analysis.comparisons.best_within_budget import best_within_budget
from analysis.comparisons.pareto_fronts import COST_NAMES
from analysis.frame.metric_display import Metric, describe
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, group_title
from analysis.tables.text_tables import ColumnHead, TextTable, format_mean_and_std


def budget_and_rank_tables(board: pd.DataFrame) -> list[TextTable]:
    """Make the tables below a leaderboard; none if neither direction of its metric is better.

    - For each dataset and architecture: the best entry within each budget of training and of prediction
      (`best_within_budget`).
    - For six or more datasets × architectures: the average ranks over them (`average_ranks`). Methods that share a
      letter do not differ.

    Args:
        board: What `leaderboard` returns.
    """
    metric = describe(str(board.attrs["by"]))
    if metric.better is None:
        return []
    return [*_budget_tables(board, metric), *_rank_tables(board, metric)]


def _budget_tables(board: pd.DataFrame, metric: Metric) -> Iterator[TextTable]:
    best = best_within_budget(board)
    costs = [describe(cost) for cost in COST_NAMES if f"{cost}_mean" in best]
    heads = [ColumnHead("budget", left=True), ColumnHead("best method", left=True), _metric_head(metric)]
    heads += [*map(_metric_head, costs), ColumnHead("of")]
    for cell, rows in best.groupby(DATASET_AND_ARCHITECTURE, sort=False):
        body = [
            [
                f"{COST_NAMES[row['cost']]} ≤ {row['budget']:g}×",
                str(row["label"]),
                *(format_mean_and_std(row, shown) for shown in (metric, *costs)),
                str(row["within"]),
            ]
            for row in rows.to_dict("records")
        ]
        title = f"Best method within a budget (of: entries within the budget) · {group_title(cell)}"
        yield TextTable(title, heads, body, repeated_columns=2)


def _rank_tables(board: pd.DataFrame, metric: Metric) -> Iterator[TextTable]:
    try:
        ranks = average_ranks(board, metric.name)
    except LookupError:  # too few cells, or too few methods in all of them; `econ plot STUDY ranks` shows the reason
        return
    heads = [ColumnHead("method", left=True), ColumnHead("Average rank", "", "↓"), ColumnHead("groups", left=True)]
    rows = [[str(row["label"]), f"{row['average_rank']:.2f}", str(row["letters"])] for row in ranks.to_dict("records")]
    note = f"{explain_ranks(ranks)} Methods that share a letter are not shown to differ."
    yield TextTable(f"Average ranks over {len(ranks.attrs['cells'])} cells", heads, rows, note=note)


def _metric_head(metric: Metric) -> ColumnHead:
    return ColumnHead(metric.title, metric.unit, metric.arrow)
