"""Computes differences to plain training for each seed, with bootstrap confidence intervals of their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.frame.metric_display import describe
from analysis.frame.relative_costs import find_plain_training
from analysis.frame.runs import ranked
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, check_comparable, default_metric, group_title

MIN_SEEDS = 3
"""Entries with fewer seeds get a warning."""
_MIN_STUDENTISED = 5  # minimum number of seeds for the studentised bootstrap
_MAX_RATIO_TO_T = 5.0  # times Student's half width; near ties can put an end of the bootstrap interval even farther
_MAX_EXHAUSTIVE = 8  # maximum number of seeds for which all resamples are listed (6,435 for 8)
_RANDOM_RESAMPLES = 9999  # resamples drawn for more seeds
_MIN_STD = 1e-6  # a resample with a smaller standard deviation (relative to the sample's) counts as constant


class Interval(NamedTuple):
    """A confidence interval of a mean.

    Attributes:
        low: The lower end; NaN where there is no interval.
        high: The upper end; NaN where there is no interval.
        kind: "studentised" (bootstrap), "t" (Student's), or "" where there is none.
    """

    low: float
    high: float
    kind: Literal["studentised", "t", ""]


NO_INTERVAL = Interval(math.nan, math.nan, "")


def paired_differences(frame: pd.DataFrame, by: str | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """Compare every entry with plain training of the same dataset and architecture, over their common seeds.

    Runs with the same seed share their initial weights and data order. Differences within a seed cancel this shared
    variation.

    Args:
        frame: Rows of `load_runs`; those chosen on test data are left out.
        by: The metric to compare; None for the metric of a leaderboard.
        confidence: The confidence level of each interval, not corrected for the number of entries.

    Returns:
        One row per entry that is not plain training (`method` other than "sgd"), for datasets and architectures with
        exactly one entry of plain training:

        - `dataset`, `architecture`, `label`, `method`
        - `metric`: the metric compared
        - `n`: the number of common seeds with a value of the metric
        - `difference`: the mean of entry minus plain training over these seeds, in the metric's unit; NaN for n = 0
        - `low`, `high`: the confidence interval (`bootstrap_interval`), in the same unit; NaN where there is none
        - `interval`: the kind of interval: "studentised", "t", or "" where there is none

        `attrs["notes"]` warns of entries with fewer than three seeds, and of entries whose seeds differ from plain
        training's.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, the confidence is not between 0 and 1, or the frame mixes rows that must
            not be in one table.
    """
    frame = ranked(frame)
    check_comparable(frame)
    by = by or default_metric(frame)
    if by not in frame or frame[by].isna().all():
        raise ValueError(f"no run has {by!r} to compare with plain training")
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
    """Return a confidence interval for the mean of paired differences.

    The interval depends on the number of differences:

    - From five on: the studentised bootstrap. Resamples give the distribution of (mean* − mean) / std*, whose quantiles
      replace Student's. Up to eight differences all resamples are used, beyond that 9,999 drawn with a fixed seed.
    - Two to four: Student's t, mean ± t · std / √n. This is the bootstrap's own standard error, with its bias removed
      by the factor √(n / (n − 1)), times Student's quantile, which assumes normal differences.
    - Student's t is also used if ties or near ties leave an end of the studentised interval undefined, or more than
      five times as far from the mean as Student's.

    Why not the usual bootstrap intervals: the ends of percentile and BCa intervals are means of resampled values, so
    they never leave the range of the differences. For three normal differences the 95 % percentile interval is this
    range, and covers the true mean in 75 % of cases; for five it covers the mean in 84 %. BCa is no better (73 %, 84
    %). The interval here covers the mean in 94 to 95 % of cases for two to eight normal differences, and in 92 to 93 %
    for five to eight skewed (exponential) ones, where Student's covers it in only 88 or 89 %. With four differences,
    half of the studentised intervals reach 2.6 times as far as Student's, and one in twenty 33 times, which makes them
    useless. With three they
    have no ends: each value alone fills one resample in 27, more than a tail of 2.5 %.

    Args:
        differences: (n,), one per seed.
        confidence: Between 0 and 1.

    Returns:
        The interval. There is none for fewer than two differences, or if all are equal, because their variation is then
        unknown.

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
    """Return how many standard deviations the interval reaches below and above the mean (inf if undefined)."""
    n = len(standardised)
    counts, shares = _list_resamples(n)
    means = counts @ standardised / n
    variances = (counts @ standardised**2 / n - means**2) * n / (n - 1)
    stds = np.sqrt(np.maximum(variances, 0.0))
    ends = []
    for signed in (means, -means):  # a constant resample has an infinite t, of the sign of its mean (+ for zero)
        flat = np.where(signed > -_MIN_STD, math.inf, -math.inf)
        t = np.divide(signed, stds, out=flat, where=stds > _MIN_STD)
        order = np.argsort(t)
        reached = np.cumsum(shares[order])
        ends.append(float(t[order][np.searchsorted(reached, 1 - tail - 1e-12)]))
    return ends[0], ends[1]


@lru_cache
def _list_resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each of n values occurs in each resample, (R, n), and the probability of each resample, (R,)."""
    if n > _MAX_EXHAUSTIVE:
        counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RANDOM_RESAMPLES)
        return counts, np.full(_RANDOM_RESAMPLES, 1 / _RANDOM_RESAMPLES)
    chosen = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(indices, minlength=n) for indices in chosen])
    ways = [math.factorial(n) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts, np.array(ways) / n**n


def _few_seeds_warning(frame: pd.DataFrame) -> list[str]:
    """Return a warning that names the entries with fewer than three seeds; no warning if there are none."""
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
    """Format a difference and its interval, as in "+0.31 [−0.12, +0.74]"; "–" where there is no difference.

    Args:
        row: A row of a leaderboard, with difference, difference_low and difference_high.
        metric: The metric that the leaderboard ranks by.
    """
    mean, low, high = (float(str(row[f"difference{end}"])) for end in ("", "_low", "_high"))
    if math.isnan(mean):
        return "–"
    form = f"+{describe(metric).format}"
    ends = "n/a" if math.isnan(low) else f"{format(low, form)}, {format(high, form)}"
    return f"{format(mean, form)} [{ends}]".replace("-", "−")
