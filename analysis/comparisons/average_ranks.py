"""Computes average ranks of methods over datasets and architectures, with Friedman's and Nemenyi's tests."""

from __future__ import annotations

import math
from string import ascii_lowercase

import numpy as np
import pandas as pd

from analysis.frame.metric_display import describe
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, default_metric, lower_is_better_means, summarize

MIN_CELLS = 6
"""The minimum number of datasets × architectures for average ranks.

By the sign test, five wins in five are not significant at 5 % (p = 2/32 = 0.06); six wins in six are (p = 2/64 = 0.03).
"""
_MIN_METHODS = 3


def average_ranks(frame: pd.DataFrame, by: str | None = None, alpha: float = 0.05) -> pd.DataFrame:
    """Rank methods within each dataset and architecture, average their ranks, and test whether they differ.

    Here a cell is one dataset and architecture. A method's score in a cell is its mean over seeds. Tied methods share
    the mean of their ranks. Cells in which no method has the metric are ignored; methods missing from some cell are
    left out. The tests treat cells as independent, which cells of the same dataset are only partly.

    Args:
        frame: Rows of `load_runs` (those chosen on test data are left out), or what `leaderboard` returns.
        by: The metric to rank by; None for the metric of the leaderboard.
        alpha: The significance level. Two methods differ if their average ranks differ by the critical difference or
            more. If Friedman's test finds no difference among all methods, no two methods differ.

    Returns:
        One row per method, the best first: `label`, `average_rank` (1 is best), `letters` (the method's groups, as in
        "ab"; methods that share a letter do not differ). `attrs`:

        - `by`, `alpha`, `cells` (their names)
        - `statistic` and `p`: Friedman's χ², corrected for ties, and the p-value of its F form by Iman and Davenport
        - `critical_difference`: Nemenyi's, in ranks
        - `groups`: the largest groups of methods that do not differ, each a list of labels, the best first
        - `left_out`: the methods left out → the number of cells that have them

    Raises:
        LookupError: If there are fewer than six cells, or fewer than three methods are in all of them.
        ValueError: If no run has the metric, or neither of its directions is better.

    References:
        Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7, 2006, section 3.2.
    """
    by = by or frame.attrs.get("by") or default_metric(frame)
    board = summarize(ranked(frame)) if "run_id" in frame else frame
    table, left_out = _complete_table(board, by)
    ranks = table.rank(axis="columns").mean().sort_values(kind="stable")
    statistic, p = _friedman_test(table.to_numpy())
    distance = critical_difference(len(ranks), len(table), alpha)
    groups = _find_groups(ranks, distance if p < alpha else math.inf)
    letters = {
        label: "".join(_group_letter(i) for i, group in enumerate(groups) if label in group) for label in ranks.index
    }
    out = pd.DataFrame({"label": ranks.index, "average_rank": ranks.to_numpy(), "letters": list(letters.values())})
    cells = [" · ".join(map(str, cell)) for cell in table.index]
    out.attrs = {"by": by, "alpha": alpha, "cells": cells, "statistic": statistic, "p": p}
    out.attrs |= {"critical_difference": distance, "groups": groups, "left_out": left_out}
    return out


def critical_difference(methods: int, cells: int, alpha: float = 0.05) -> float:
    """Return the difference of average ranks from which two methods differ, by Nemenyi's test.

    It is q √(k (k + 1) / (6 N)) for k methods in N cells. q is the quantile of the studentised range of k values with
    infinite degrees of freedom, divided by √2.

    Args:
        methods: k.
        cells: N.
        alpha: The significance level, over all pairs of methods together.

    References:
        Demšar 2006, section 3.2.2.
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * cells))


def explain_ranks(ranks: pd.DataFrame) -> str:
    """Describe the result of the tests in a few sentences: what was ranked, what was found, and what is left out.

    Args:
        ranks: What `average_ranks` returns.
    """
    found = ranks.attrs
    metric = describe(found["by"])
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    text = (
        f"Average ranks by {metric.title} of {len(ranks)} methods over {len(found['cells'])} cells (dataset and "
        f"architecture). Friedman's test: χ² = {found['statistic']:.1f}, {p} (Iman and Davenport's F). "
    )
    if found["p"] < found["alpha"]:
        text += (
            f"Nemenyi's critical difference is {found['critical_difference']:.2f} ranks at {100 * found['alpha']:g} %."
        )
    else:
        text += f"No difference is shown at {100 * found['alpha']:g} %."
    if found["left_out"]:
        named = ", ".join(f"{label} ({count})" for label, count in found["left_out"].items())
        text += f" Left out, not in all {len(found['cells'])} cells: {named}."
    return text


def _complete_table(board: pd.DataFrame, by: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return a table of means, cells × methods, lower is better, without the methods that some cells lack.

    Also returns how many cells have each of the methods left out.
    """
    if f"{by}_mean" not in board or board[f"{by}_mean"].isna().all():
        raise ValueError(f"no run has {by!r} to rank by")
    if describe(by).better is None:
        raise ValueError(f"neither direction of {by!r} is better: methods have no ranks by it")
    means = (
        board[[*DATASET_AND_ARCHITECTURE, "label"]]
        .assign(value=lower_is_better_means(board, by))
        .dropna(subset="value")
    )
    table = means.pivot(index=DATASET_AND_ARCHITECTURE, columns="label", values="value")
    if len(table) < MIN_CELLS:
        raise LookupError(f"ranks need at least {MIN_CELLS} cells (dataset and architecture), there are {len(table)}")
    counts = table.count()
    left_out = {str(label): int(n) for label, n in counts.items() if n < len(table)}
    whole = table.dropna(axis="columns")
    if whole.shape[1] < _MIN_METHODS:
        named = "; ".join(f"{label} in {n}" for label, n in left_out.items()) or "none"
        raise LookupError(
            f"ranks need at least {_MIN_METHODS} methods that all {len(table)} cells have, there are {whole.shape[1]} "
            f"(not in all: {named})"
        )
    return whole, left_out


def _friedman_test(values: np.ndarray) -> tuple[float, float]:
    """Return Friedman's χ² of cells × methods, and the p-value of F = (N − 1) χ² / (N (k − 1) − χ²)."""
    from scipy.special import fdtrc
    from scipy.stats import friedmanchisquare

    n, k = values.shape
    if (np.ptp(values, axis=1) == 0).all():
        return 0.0, 1.0  # all methods tie in every cell
    statistic = float(friedmanchisquare(*values.T).statistic)
    maximum = n * (k - 1)
    if statistic >= maximum * (1 - 1e-12):
        return statistic, 0.0  # all cells rank the methods in the same order
    return statistic, float(fdtrc(k - 1, (k - 1) * (n - 1), (n - 1) * statistic / (maximum - statistic)))


def _find_groups(ranks: pd.Series[float], distance: float) -> list[list[str]]:
    """Find the largest groups of methods whose average ranks are less than a distance apart."""
    groups: list[list[str]] = []
    end = 0
    for start in range(len(ranks)):
        apart = ranks.to_numpy()[start:] - ranks.iloc[start]
        last = start + int((apart < distance - 1e-9).sum())
        if last > end:
            groups.append([str(label) for label in ranks.index[start:last]])
            end = last
    return groups


def _group_letter(index: int) -> str:
    """Return the letter of a group: a, b, … z, A, B, …. There are at most as many groups as methods."""
    letters = ascii_lowercase + ascii_lowercase.upper()
    return letters[index] if index < len(letters) else f"({index + 1})"
