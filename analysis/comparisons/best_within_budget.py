"""Finds the best method within a cost budget."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.comparisons.leaderboard import leaderboard
from analysis.comparisons.pareto_fronts import COST_NAMES
from analysis.frame.metric_display import describe
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE

BUDGETS = (1.0, 1.1, 4.0)
"""The cost of training one network, slightly more, and the cost of a small ensemble."""


def best_within_budget(frame: pd.DataFrame, by: str | None = None, budgets: Sequence[float] = BUDGETS) -> pd.DataFrame:
    """Find the best entry of each dataset and architecture whose cost is within a budget.

    The best entry has the best mean over seeds, with ties broken as in a leaderboard; entries that still tie are all
    returned. The best of several entries is selected by its score, so this score is more likely too good than too bad.
    Costs are rounded to two decimals, as tables show them: 1.004 is within 1.0.

    Args:
        frame: Rows of `load_runs`, or what `leaderboard` returns (then `by` is the leaderboard's metric).
        by: The metric of quality; None for the metric of a leaderboard.
        budgets: The maximum costs of an entry, relative to one network: for training, to plain training; for
            prediction, to one forward pass per example.

    Returns:
        One row per dataset, architecture, cost, budget and best entry, in this order: `dataset`, `architecture`, `cost`
        ("train_cost" or "predict_cost"), `budget`, `within` (the number of entries within the budget), and the
        leaderboard's columns of the best entry: `label`, `method`, `n`, `<by>_mean`, `<by>_std`, `train_cost_mean`,
        `predict_cost_mean`, `difference`, `difference_low`, `difference_high`. A budget without entries has no row.
        `attrs["by"]` is the metric.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, neither of its directions is better, a budget is not positive, the frame
            mixes rows that must not be in one table, or `by` is not the metric of the given leaderboard.
    """
    board = leaderboard(frame, by) if "run_id" in frame else frame
    if by not in (None, board.attrs["by"]):
        raise ValueError(f"the leaderboard ranks by {board.attrs['by']!r}, not by {by!r}: rank by {by!r} instead")
    by = str(board.attrs["by"])
    if describe(by).better is None:
        raise ValueError(f"neither direction of {by!r} is better: nothing is best within a budget")
    if not all(budget > 0 for budget in budgets):
        raise ValueError(f"budgets must be positive, not {list(budgets)}")
    costs = [cost for cost in COST_NAMES if f"{cost}_mean" in board]
    kept = ["label", "method", "n", f"{by}_mean", f"{by}_std", *(f"{cost}_mean" for cost in costs)]
    kept += ["difference", "difference_low", "difference_high"]
    rows: list[dict[str, object]] = []
    for cell, entries in board[board["rank"].notna()].groupby(DATASET_AND_ARCHITECTURE, sort=False):
        for cost in costs:
            for budget in sorted(budgets):
                within = entries[entries[f"{cost}_mean"].round(2) <= budget]
                group = dict(zip(DATASET_AND_ARCHITECTURE, cell, strict=True))
                group |= {"cost": cost, "budget": budget, "within": len(within)}
                best = within[within["rank"] == within["rank"].min()]
                rows += [group | {str(k): v for k, v in row.items()} for row in best[kept].to_dict("records")]
    out = pd.DataFrame(rows, columns=[*DATASET_AND_ARCHITECTURE, "cost", "budget", "within", *kept])
    out.attrs["by"] = by
    return out
