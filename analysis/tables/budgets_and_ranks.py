"""What stands below the boards: the best method within a budget, and average ranks over many cells."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.comparisons.average_ranks import average_ranks, explain_ranks
from analysis.comparisons.best_within_budget import best_within_budget
from analysis.comparisons.pareto_fronts import COSTS
from analysis.frame.metric_display import Metric, describe
from analysis.frame.seed_statistics import CELL, name_cell
from analysis.tables.text_tables import Head, Table, write_cell


def comparisons(board: pd.DataFrame) -> list[Table]:
    """Make the tables below a leaderboard; none by a metric of which neither direction is better.

    - For each dataset and architecture, the best entry within each budget of training and of prediction
      (`best_within_budget`).
    - From six of them on, the average ranks over them (`average_ranks`). Methods that share a letter do not differ.

    Args:
        board: What `leaderboard` returns.
    """
    metric = describe(str(board.attrs["by"]))
    if metric.better is None:
        return []
    return [*_budgets(board, metric), *_ranks(board, metric)]


def _budgets(board: pd.DataFrame, metric: Metric) -> Iterator[Table]:
    best = best_within_budget(board)
    costs = [describe(cost) for cost in COSTS if f"{cost}_mean" in best]
    heads = [Head("budget", left=True), Head("best method", left=True), _head(metric)]
    heads += [*map(_head, costs), Head("of")]
    for cell, rows in best.groupby(CELL, sort=False):
        body = [
            [
                f"{COSTS[row['cost']]} ≤ {row['budget']:g}×",
                str(row["label"]),
                *(write_cell(row, shown) for shown in (metric, *costs)),
                str(row["within"]),
            ]
            for row in rows.to_dict("records")
        ]
        yield Table(f"Best within a budget (of so many entries) · {name_cell(cell)}", heads, body, repeated=2)


def _ranks(board: pd.DataFrame, metric: Metric) -> Iterator[Table]:
    try:
        ranks = average_ranks(board, metric.name)
    except LookupError:  # too few cells, or methods that all of them have: `econ plot STUDY ranks` says which
        return
    heads = [Head("method", left=True), Head("Average rank", "", "↓"), Head("groups", left=True)]
    rows = [[str(row["label"]), f"{row['average_rank']:.2f}", str(row["letters"])] for row in ranks.to_dict("records")]
    note = f"{explain_ranks(ranks)} Methods that share a letter are not shown to differ."
    yield Table(f"Average ranks over {len(ranks.attrs['cells'])} cells", heads, rows, note=note)


def _head(metric: Metric) -> Head:
    return Head(metric.title, metric.unit, metric.arrow)
