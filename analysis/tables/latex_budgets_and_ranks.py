"""Writes LaTeX tables of the best method within each budget, and of average ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.comparisons.average_ranks import average_ranks, explain_ranks
from analysis.comparisons.best_within_budget import BUDGETS, best_within_budget
from analysis.comparisons.pareto_fronts import COST_NAMES
from analysis.frame.metric_display import Metric, describe
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, group_title
from analysis.tables.latex_document import banner_sentence, escape_latex


def latex_comparisons(board: pd.DataFrame, *, label: str | None = None) -> list[str]:
    """Write the LaTeX tables that accompany a leaderboard: budgets, and average ranks where there are enough cells.

    Args:
        board: What `leaderboard` returns.
        label: The label of the leaderboard's own table, for documents with several leaderboards.

    Returns:
        One `table` environment each. Their labels are `tab:budgets` and `tab:ranks`, or `label` followed by `-budgets`
        and `-ranks`.
    """
    if describe(str(board.attrs["by"])).better is None:
        return []
    before = f"{label}-" if label else "tab:"
    budgets = [] if best_within_budget(board).empty else [latex_budgets(board, label=f"{before}budgets")]
    try:
        return [*budgets, latex_ranks(board, label=f"{before}ranks")]
    except LookupError:  # too few cells, or too few methods in all of them
        return budgets


def latex_ranks(
    frame: pd.DataFrame, by: str | None = None, *, caption: str | None = None, label: str = "tab:ranks"
) -> str:
    r"""Write the average ranks as a `table` environment; methods that share a letter do not differ.

    The table needs `\usepackage{booktabs}`.

    Args:
        frame: Rows of `load_runs`, or what `leaderboard` returns.
        by: The metric to rank by; None for the metric of a leaderboard.
        caption: LaTeX that replaces the default caption, which describes the tests, the cells and the methods left out.
        label: For `\ref`.

    Raises:
        LookupError, ValueError: As `average_ranks` does.
    """
    ranks = average_ranks(frame, by)
    rows = [
        [escape_latex(str(row["label"])), f"{row['average_rank']:.2f}", escape_latex(row["letters"])]
        for row in ranks.to_dict("records")
    ]
    explanation = f"{explain_ranks(ranks)} Methods that share a letter are not shown to differ."
    heads = ["method", r"average rank $\downarrow$", "groups"]
    caption = caption or escape_latex(explanation).replace(r"$\chi$2", r"$\chi^2$")
    return _table("lrl", heads, [rows], caption + banner_sentence(frame), label)


def latex_budgets(
    frame: pd.DataFrame,
    by: str | None = None,
    budgets: Sequence[float] = BUDGETS,
    *,
    caption: str | None = None,
    label: str = "tab:budgets",
) -> str:
    r"""Write the best method within each budget as a `table` environment, one part per dataset and architecture.

    The table needs `\usepackage{booktabs}`.

    Args:
        frame: Rows of `load_runs`, or what `leaderboard` returns.
        by: The metric of quality; None for the metric of a leaderboard.
        budgets: As `best_within_budget` takes them.
        caption: LaTeX that replaces the default caption.
        label: For `\ref`.

    Raises:
        LookupError, ValueError: As `best_within_budget` does.
    """
    best = best_within_budget(frame, by, budgets)
    metric = describe(str(best.attrs["by"]))
    costs = [describe(cost) for cost in COST_NAMES if f"{cost}_mean" in best]
    arrow = {"higher": r"\uparrow", "lower": r"\downarrow"}[str(metric.better)]
    heads = ["budget", "best method", rf"{escape_latex(metric.header)} ${arrow}$"]
    heads += [rf"{escape_latex(cost.header)} $\downarrow$" for cost in costs]
    parts, titles = [], []
    for cell, rows in best.groupby(DATASET_AND_ARCHITECTURE, sort=False):
        parts.append([_budget_row(row, metric, costs) for row in rows.to_dict("records")])
        titles.append(group_title(cell))
    explanation = (
        f"The best method ({metric.title}, mean ± sample standard deviation over seeds) whose cost is at most "
        "the given multiple of the plain training of one network, or of its prediction."
    )
    columns = "llr" + "r" * len(costs)
    return _table(
        columns, heads, parts, (caption or escape_latex(explanation)) + banner_sentence(frame), label, titles=titles
    )


def _budget_row(row: dict[Any, Any], metric: Metric, costs: Sequence[Metric]) -> list[str]:
    mean, std = float(row[f"{metric.name}_mean"]), metric.format_std(float(row[f"{metric.name}_std"]))
    spread = rf"\mathrm{{{std}}}" if std == "n/a" else std
    figure = rf"${metric.format_value(mean)} \pm {spread}$" if metric.spread else f"${metric.format_value(mean)}$"
    paid = [f"${cost.format_value(float(row[f'{cost.name}_mean']))}$" for cost in costs]
    budget = rf"{COST_NAMES[row['cost']]} $\leq {row['budget']:g}\times$"
    return [budget, escape_latex(str(row["label"])), figure, *paid]


def _table(
    columns: str,
    heads: Sequence[str],
    parts: Sequence[Sequence[Sequence[str]]],
    caption: str,
    label: str,
    titles: Sequence[str] = (),
) -> str:
    """Write a table with booktabs rules between its parts; each part may have a title above it."""
    lines = ["\\begin{table}[tb]", "\\centering", f"\\caption{{{caption}}}", f"\\label{{{label}}}"]
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", " & ".join(heads) + r" \\"]
    for i, rows in enumerate(parts):
        lines.append("\\midrule")
        if titles:
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escape_latex(titles[i])}}}}} \\")
        lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])
