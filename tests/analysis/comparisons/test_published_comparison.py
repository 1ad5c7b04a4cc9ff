"""A paper's values beside ours: Welch's interval, what is missing, and how the table is written."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from analysis import compare
from analysis.comparisons.published_comparison import welch_interval
from tests.analysis.published import ours, stated


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("m", [2, 5])
def test_the_interval_is_scipys(n, m):
    rng = np.random.default_rng(n * m)
    a, b = rng.normal(81, 0.3, n), rng.normal(80.5, 0.1, m)
    low, high = welch_interval(a.mean(), a.std(ddof=1), n, b.mean(), b.std(ddof=1), m)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)


@pytest.mark.parametrize(
    "sides", [(81.0, math.nan, 1, 80.0, 0.1, 5), (81.0, 0.1, 3, 80.0, math.nan, 1), (math.nan, math.nan, 0, 80, 0.1, 5)]
)
def test_one_run_has_no_interval(sides):
    assert all(math.isnan(bound) for bound in welch_interval(*sides))


def test_without_any_spread_there_is_no_interval():
    assert all(math.isnan(bound) for bound in welch_interval(81.0, 0.0, 3, 80.0, 0.0, 5))


def test_both_sides_and_their_difference():
    frame = pd.DataFrame(ours("a", [81.0, 81.2, 81.4]))
    paper = stated(("A", "acc", "a", "accuracy", 81.35, 0.16, 5), ("B", "acc", "b", "accuracy", 80.0, 0.1, 5))
    a, b = compare(paper, frame).to_dict("records")
    assert (a["ours_mean"], a["ours_std"], a["ours_n"]) == pytest.approx((81.2, 0.2, 3))
    assert a["difference"] == pytest.approx(-0.15)
    assert (a["low"], a["high"]) == pytest.approx(welch_interval(81.2, 0.2, 3, 81.35, 0.16, 5))
    assert b["ours_n"] == 0 and all(math.isnan(b[name]) for name in ("ours_mean", "difference", "low", "high"))


def test_units_are_the_papers():
    frame = pd.DataFrame(ours("a", [0.98, 0.99], "ood_auroc"))
    (row,) = compare(stated(("A", "OOD", "a", "ood_auroc", 98.0, 0.1, 3, {"times": 100.0})), frame).to_dict("records")
    assert (row["ours_mean"], row["difference"]) == pytest.approx((98.5, 0.5))


def test_a_run_without_the_metric_does_not_count():
    frame = pd.DataFrame(ours("a", [81.0, math.nan, 82.0]))
    (row,) = compare(stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5)), frame).to_dict("records")
    assert (row["ours_n"], row["ours_mean"]) == (2, 81.5)


def test_what_does_not_belong_beside_a_paper_is_refused():
    paper = stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5))
    with pytest.raises(ValueError, match="these runs were evaluated on validation data"):
        compare(paper, pd.DataFrame(ours("a", [81.0])).assign(evaluated_on="validation"))
    with pytest.raises(ValueError, match="seed 0 more than once"):
        compare(paper, pd.DataFrame(ours("a", [81.0]) * 2))
