"""The best method for what one is ready to pay."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.comparisons.leaderboard import leaderboard
from analysis.comparisons.pareto_fronts import COST_NAMES
from analysis.frame.metric_display import describe
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE

BUDGETS = (1.0, 1.1, 4.0)
"""One network's training, hardly more, and that of a small ensemble."""


def best_within_budget(frame: pd.DataFrame, by: str | None = None, budgets: Sequence[float] = BUDGETS) -> pd.DataFrame:
    """Find the best entry of each dataset and architecture that costs no more than a budget.

    The best is the best mean over seeds, ties decided as in a leaderboard; entries that tie there are all named. It has
    won over all others within the budget, so that its figure is more likely too good than too bad. A cost counts as it
    is written, to two decimals: 1.004 is within 1.0.

    Args:
        frame: Rows of `load_runs`, or what `leaderboard` returns (of which `by` is the metric).
        by: The metric of quality; None for that of a leaderboard.
        budgets: The most that an entry may cost, in multiples of one network's cost: for training the training of plain
            training, for prediction one forward pass an example.

    Returns:
        One row a dataset, architecture, cost, budget and best entry, in this order: `dataset`, `architecture`, `cost`
        ("train_cost" or "predict_cost"), `budget`, `within` (how many entries cost no more), and the leaderboard's
        columns of the best one: `label`, `method`, `n`, `<by>_mean`, `<by>_std`, `train_cost_mean`,
        `predict_cost_mean`, `difference`, `difference_low`, `difference_high`. A budget within which there is nothing
        has no row. `attrs["by"]` is the metric.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, neither of its directions is better, a budget is not positive, or the
            frame mixes what does not belong in one table; or for another metric than the leaderboard's.
    """
    board = leaderboard(frame, by) if "run_id" in frame else frame
    if by not in (None, board.attrs["by"]):
        raise ValueError(f"the leaderboard ranks by {board.attrs['by']!r}, not by {by!r}: make one that does")
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
                place = dict(zip(DATASET_AND_ARCHITECTURE, cell, strict=True)) | {
                    "cost": cost,
                    "budget": budget,
                    "within": len(within),
                }
                best = within[within["rank"] == within["rank"].min()]
                rows += [place | {str(k): v for k, v in row.items()} for row in best[kept].to_dict("records")]
    out = pd.DataFrame(rows, columns=[*DATASET_AND_ARCHITECTURE, "cost", "budget", "within", *kept])
    out.attrs["by"] = by
    return out
