"""Compares our results with a paper's table: means and spreads of both, their difference and its Welch interval."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd

from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, check_comparable

CONFIDENCE = 0.95
"""The confidence level of Welch's interval."""


def compare(paper: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Compare our runs with the values of a paper.

    The interval is Welch's interval for the difference of two means with unequal spreads and numbers of runs (Welch,
    The generalization of 'Student's' problem, Biometrika 1947). It does not exist (NaN) if either side has a single
    run, if neither side has any spread, or if the paper states no spread.

    Args:
        paper: One row per value of the paper's table, in its order. Columns: row and column (their names in the table),
            dataset, architecture and label (our cells to compare with), metric (a column of `load_runs`),
            times (the factor from our unit to the paper's), stated (the value as the paper prints it, "" for none),
            paper_mean, paper_std, paper_n (NaN and 0 where the paper gives none), decimals (of its mean), note.
        frame: Rows of `load_runs`; those chosen on test data count too, as they do in the paper.

    Returns:
        The paper's rows with further columns ours_mean, ours_std (sample standard deviation, n − 1), ours_n (the number
        of finished runs with the metric), runs (the number of finished runs), unfinished (the number of other runs),
        chosen_on ("test" if some runs were chosen on test data), difference (ours − the paper's), low and high (its 95
        % interval), all in the paper's unit. Missing values are NaN; a missing run is never filled in. `attrs` merges
        those of both frames.

    Raises:
        ValueError: If the runs were not evaluated on test data, or the frame mixes rows that must not be in one table.
    """
    check_comparable(frame)
    if list(frame["evaluated_on"].unique()) != ["test"]:
        raise ValueError("a paper's values are scores on test data, but these runs were evaluated on validation data")
    groups = dict(iter(frame.groupby([*DATASET_AND_ARCHITECTURE, "label"])))
    cells = frame.attrs.get("unfinished", [])
    unfinished = Counter(tuple(cell.get(name, "") for name in (*DATASET_AND_ARCHITECTURE, "label")) for cell in cells)
    rows = []
    for value in paper.to_dict("records"):
        runs = groups.get((value["dataset"], value["architecture"], value["label"]))
        metric = str(value["metric"])
        ours = runs[metric].dropna() * value["times"] if runs is not None and metric in runs else pd.Series(dtype=float)
        mean, std, n = float(ours.mean()), float(ours.std(ddof=1)), len(ours)
        low, high = welch_interval(mean, std, n, value["paper_mean"], value["paper_std"], value["paper_n"])
        found = {"ours_mean": mean, "ours_std": std, "ours_n": n, "difference": mean - value["paper_mean"]}
        found |= {"runs": 0 if runs is None else len(runs), "chosen_on": _chosen_on(runs)}
        found["unfinished"] = unfinished[value["dataset"], value["architecture"], value["label"]]
        rows.append({str(key): item for key, item in value.items()} | found | {"low": low, "high": high})
    compared = pd.DataFrame(rows)
    compared.attrs = {**frame.attrs, **paper.attrs}
    return compared


def _chosen_on(runs: pd.DataFrame | None) -> str:
    """Return "test" if some of the runs were chosen on test data, else ""."""
    return "test" if runs is not None and "chosen_on" in runs and (runs["chosen_on"] == "test").any() else ""


def welch_interval(
    mean: float, std: float, n: int, other: float, other_std: float, other_n: int
) -> tuple[float, float]:
    """Return Welch's 95 % interval for the difference of two means; NaN where it does not exist.

    Args:
        mean: The mean of our runs.
        std: Their sample standard deviation.
        n: Their number.
        other: The mean of the paper's runs.
        other_std: Their sample standard deviation.
        other_n: Their number.
    """
    from scipy.stats import t

    known = not any(math.isnan(value) for value in (mean, std, other, other_std))
    if not known or min(n, other_n) < 2:
        return math.nan, math.nan
    a, b = std**2 / n, other_std**2 / other_n
    if a + b == 0:
        return math.nan, math.nan
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (other_n - 1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(a + b)
    return mean - other - half, mean - other + half
