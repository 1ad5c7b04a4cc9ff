"""Differences to plain training, seed by seed, and what a bootstrap says about their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.frame.metric_display import describe
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import (
    DATASET_AND_ARCHITECTURE,
    check_comparable,
    default_metric,
    find_plain_training,
    group_title,
)

MIN_SEEDS = 3
"""Fewer seeds than this are warned of."""
_MIN_STUDENTISED = 5  # seeds from which resamples are studentised
_MAX_RATIO_TO_T = 5.0  # times as far as Student's: an end beyond it is near ties' doing
_MAX_EXHAUSTIVE = 8  # seeds up to which all resamples are listed: 6,435 of 8
_RANDOM_RESAMPLES = 9999  # resamples of more
_MIN_STD = 1e-6  # standard deviations below which a resample's values count as one


class Interval(NamedTuple):
    """A confidence interval of a mean.

    Attributes:
        low: Its lower end; NaN where there is no interval.
        high: Its upper end.
        kind: "studentised" (bootstrap), "t" (Student's), or "" where there is none.
    """

    low: float
    high: float
    kind: Literal["studentised", "t", ""]


NO_INTERVAL = Interval(math.nan, math.nan, "")


def paired_differences(frame: pd.DataFrame, by: str | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Compare every entry with plain training of the same dataset and architecture, over the seeds both have.

    Runs of one seed share their initial weights and the order of their data, so that a difference within a seed has
    lost what the seed itself does.

    Args:
        frame: Rows of `load_runs`; those chosen on test data are left out.
        by: The metric to compare; None for that of a leaderboard.
        confidence: Of the intervals, each for itself: nothing is corrected for the number of entries.

    Returns:
        One row an entry that is not plain training (`method` other than "sgd"), of the datasets and architectures that
        have one entry of it:

        - `dataset`, `architecture`, `label`, `method`
        - `metric`: the one compared
        - `n`: the number of seeds that both have, with a value of the metric
        - `difference`: the mean over them of entry minus plain training, in the unit of the metric; NaN for n = 0
        - `low`, `high`: its interval (`bootstrap_interval`), in the same unit; NaN where there is none
        - `interval`: what kind of interval it is, "studentised", "t", or "" where there is none

        `attrs["notes"]` warns of entries with fewer than three seeds and of those whose seeds are not plain training's.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, the confidence is not between 0 and 1, or the frame mixes what does not
            belong in one table.
    """
    frame = ranked(frame)
    check_comparable(frame)
    by = by or default_metric(frame)
    if by not in frame or frame[by].isna().all():
        raise ValueError(f"no run has {by!r}: nothing to compare with plain training")
    rows: list[dict[str, object]] = []
    notes, unshared, infinite = [], [], []
    for cell, runs in frame.groupby(DATASET_AND_ARCHITECTURE):
        plain, why = find_plain_training(runs)
        if why:
            notes.append(f"{group_title(cell)}: no differences to plain training ({why}).")
            continue
        reference = plain.set_index("seed")[by].dropna()
        for label, entry in runs[runs["method"] != "sgd"].groupby("label"):
            own = entry.set_index("seed")[by].dropna()
            found = (own - reference).dropna()
            finite = bool(np.isfinite(found).all())
            interval = bootstrap_interval(found.to_numpy(), confidence) if finite else NO_INTERVAL
            names = dict(zip(DATASET_AND_ARCHITECTURE, cell, strict=True)) | {
                "label": label,
                "method": entry["method"].iloc[0],
            }
            figures = {"metric": by, "n": len(found), "difference": found.mean()}
            rows.append(names | figures | {"low": interval.low, "high": interval.high, "interval": interval.kind})
            if not finite:
                infinite.append(f"{label} ({group_title(cell)})")
            if set(own.index) != set(reference.index):
                counts = f"{len(found)} common, {len(own)} of its own, {len(reference)} of plain training"
                unshared.append(f"{label} ({group_title(cell)}): {counts}")
    if infinite:
        notes.append(f"Warning: infinite {describe(by).title}, so no interval: {'; '.join(infinite)}.")
    columns = [*DATASET_AND_ARCHITECTURE, "label", "method", "metric", "n", "difference", "low", "high", "interval"]
    table = pd.DataFrame(rows, columns=columns)
    if unshared:
        notes.append(f"Warning: not the seeds of plain training, Δ is over the common ones: {'; '.join(unshared)}.")
    table.attrs["notes"] = [*_few_seeds_warning(frame), *notes]
    return table


def bootstrap_interval(differences: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Interval:
    """Find an interval that holds the true mean of paired differences in the given share of cases.

    From five differences on it is the studentised bootstrap: resamples (all of them up to eight differences, else
    9,999 drawn by a generator of fixed seed) give the distribution of (mean* − mean) / std*, whose quantiles take the
    place of Student's. Of two to four, Student's t: mean ± t · std / √n, that is the bootstrap's own standard error,
    freed of its bias by √(n / (n − 1)), times Student's quantile, which supposes normal differences. The same where
    ties or near ties take an end of the studentised one away, or more than five times as far as Student's.

    Why not the usual ones: an end of a percentile or BCa interval is a mean of resampled values, so that it never
    leaves the range of the differences. Of three, the 95 % percentile interval is that range, and holds the true mean
    of normal differences in 75 % of cases, that of five in 84 %; BCa is no better (73 %, 84 %). This one holds it in
    94 to 95 % of two to eight normal differences, and in 92 to 93 % of five to eight skewed (exponential) ones, where
    Student's falls to 88 or 89 %. Of four, half the studentised ones reach 2.6 times as far as Student's and one in
    twenty 33 times: they say nothing. Of three they have no ends at all: each value fills one resample of 27, more
    than a tail of 2.5 %.

    Args:
        differences: (n,), one a seed.
        confidence: Between 0 and 1.

    Returns:
        The interval; none for fewer than two differences, or if all are equal, for then nothing says how they vary.

    Raises:
        ValueError: If the confidence is not between 0 and 1, or a difference is not finite.

    References:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, section 12.5 (the bootstrap-t interval).
        Hesterberg, What teachers should know about the bootstrap, The American Statistician 69, 2015.
    """
    values = np.asarray(differences, dtype=float)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if not np.isfinite(values).all():
        raise ValueError(f"differences must be finite, not {values.tolist()}")
    n = len(values)
    if n < 2 or np.ptp(values) <= 1e-9 * np.abs(values).max():
        return NO_INTERVAL
    from scipy.special import stdtrit

    mean, std = float(values.mean()), float(values.std(ddof=1))
    tail = (1 - confidence) / 2
    half = float(stdtrit(n - 1, 1 - tail)) * std / math.sqrt(n)
    if n >= _MIN_STUDENTISED:
        below, above = (end * std for end in _studentised_reach((values - mean) / std, tail))
        if max(below, above) <= _MAX_RATIO_TO_T * half:
            return Interval(mean - below, mean + above, "studentised")
    return Interval(mean - half, mean + half, "t")


def _studentised_reach(standardised: np.ndarray, tail: float) -> tuple[float, float]:
    """How many standard deviations the interval reaches below and above the mean; infinite if it has no end there."""
    n = len(standardised)
    counts, shares = _list_resamples(n)
    means = counts @ standardised / n
    variances = (counts @ standardised**2 / n - means**2) * n / (n - 1)
    stds = np.sqrt(np.maximum(variances, 0.0))
    ends = []
    for signed in (means, -means):  # a resample of one value only has no spread: it counts towards both, or one, end
        flat = np.where(signed > -_MIN_STD, math.inf, -math.inf)
        t = np.divide(signed, stds, out=flat, where=stds > _MIN_STD)
        order = np.argsort(t)
        reached = np.cumsum(shares[order])
        ends.append(float(t[order][np.searchsorted(reached, 1 - tail - 1e-12)]))
    return ends[0], ends[1]


@lru_cache
def _list_resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """List how often each of n values stands in a resample, (R, n), and the probability of each, (R,)."""
    if n > _MAX_EXHAUSTIVE:
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RANDOM_RESAMPLES)
        return counts, np.full(_RANDOM_RESAMPLES, 1 / _RANDOM_RESAMPLES)
    chosen = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(indices, minlength=n) for indices in chosen])
    ways = [math.factorial(n) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts, np.array(ways) / n**n


def _few_seeds_warning(frame: pd.DataFrame) -> list[str]:
    """Name the entries with fewer than three seeds."""
    named = []
    for cell, runs in frame.groupby(DATASET_AND_ARCHITECTURE):
        seeds = runs.groupby("label")["seed"].nunique()
        few = [f"{label}: {n}" for label, n in seeds.items() if n < MIN_SEEDS]
        if len(few) == len(seeds) > 1:
            few = [f"all {len(few)} entries"]
        if few:
            named.append(f"{', '.join(few)} ({group_title(cell)})")
    what = "fewer than three seeds, too few to tell a difference from chance"
    return [f"Warning: {what}: {'; '.join(named)}."] if named else []


def format_difference(row: Mapping[Any, object], metric: str) -> str:
    """Write a difference and its interval, as "+0.31 [−0.12, +0.74]"; "–" where there is none.

    Args:
        row: Of a leaderboard, with difference, difference_low and difference_high.
        metric: The one that the leaderboard goes by.
    """
    mean, low, high = (float(str(row[f"difference{end}"])) for end in ("", "_low", "_high"))
    if math.isnan(mean):
        return "–"
    form = f"+{describe(metric).format}"
    ends = "n/a" if math.isnan(low) else f"{format(low, form)}, {format(high, form)}"
    return f"{format(mean, form)} [{ends}]".replace("-", "−")
