"""Differences to plain training and their intervals, against SciPy, naive loops and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis import leaderboard, paired_differences
from analysis.comparisons.paired_differences import bootstrap_interval, format_difference


def entries(label, values, **columns):
    return [{"label": label, "seed": seed, "accuracy": value} | columns for seed, value in values.items()]


def naive(differences, confidence=0.95):
    """The studentised bootstrap over all ordered resamples."""
    d = np.array(differences)
    n, mean, std = len(d), d.mean(), d.std(ddof=1)
    ts = []
    for chosen in itertools.product(d, repeat=n):
        spread = np.std(chosen, ddof=1)
        t = (np.mean(chosen) - mean) / spread if spread > 1e-9 else math.copysign(math.inf, np.mean(chosen) - mean)
        ts.append(t)
    kept = math.ceil(round((1 + confidence) / 2 * len(ts), 9))
    return mean - sorted(ts)[kept - 1] * std, mean + sorted(-t for t in ts)[kept - 1] * std


@pytest.mark.parametrize("differences", [[0.1, -0.4, 1.2, 0.7, -1.0], [3.0, 3.6, 2.2, 5.0, 3.7]])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_it_is_the_bootstrap_over_all_resamples(differences, confidence):
    found = bootstrap_interval(differences, confidence)
    assert found.kind == "studentised"
    assert found[:2] == pytest.approx(naive(differences, confidence), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_of_two_to_four_it_is_students(n):
    entry, plain = np.random.default_rng(n).normal(size=(2, n))
    found = bootstrap_interval(entry - plain)
    expected = stats.ttest_rel(entry, plain).confidence_interval(0.95)
    assert found.kind == "t" and found[:2] == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_of_three_the_percentile_interval_would_be_their_range():
    d = np.array([0.3, -0.1, 0.9])
    found = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    assert (found.low, found.high) == pytest.approx((-0.1, 0.9))
    low, high, _ = bootstrap_interval(d)
    assert low < -0.1 and high > 0.9


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_it_holds_the_mean_of_normal_differences_as_often_as_it_says(n):
    random = np.random.default_rng(n)
    found = [bootstrap_interval(random.normal(1.0, 2.0, n)) for _ in range(2000)]
    assert np.mean([low <= 1 <= high for low, high, _ in found]) == pytest.approx(
        0.95, abs=0.017
    )  # 3.5 standard errors


def test_it_holds_the_mean_of_skewed_differences_more_often_than_students():
    draws = np.random.default_rng(0).exponential(size=(2000, 5))
    held = np.mean([low <= 1 <= high for low, high, _ in map(bootstrap_interval, draws)])
    half = stats.t.ppf(0.975, 4) * draws.std(axis=1, ddof=1) / math.sqrt(5)
    student = np.mean(np.abs(draws.mean(axis=1) - 1) <= half)
    assert held == pytest.approx(0.92, abs=0.02) and student == pytest.approx(0.88, abs=0.02)


def test_of_many_it_is_drawn_the_same_each_time_and_close_to_students_of_normal_ones():
    d = np.random.default_rng(3).normal(size=40)
    found = bootstrap_interval(d)
    assert found == bootstrap_interval(d) and found.kind == "studentised"
    expected = stats.t.interval(0.95, 39, d.mean(), stats.sem(d))
    assert found[:2] == pytest.approx(expected, abs=0.05)


def test_turning_the_comparison_round_turns_the_interval_round():
    d = np.array([0.2, 0.5, -0.3, 1.5, 0.4])
    low, high, _ = bootstrap_interval(d)
    assert bootstrap_interval(-d)[:2] == pytest.approx((-high, -low))
    assert bootstrap_interval(10 * d + 3)[:2] == pytest.approx((10 * low + 3, 10 * high + 3))


@pytest.mark.parametrize("near", [0.0, 1e-5, 0.01])
def test_ties_that_leave_no_useful_end_give_students(near):
    d = [0.0, near, 0.0, -near, 1.0]  # a third of all resamples are without the last
    found = bootstrap_interval(d)
    assert found.kind == "t"
    assert found[:2] == pytest.approx(stats.t.interval(0.95, 4, 0.2, stats.sem(d)))


@pytest.mark.parametrize("differences", [[], [0.5], [0.5, 0.5, 0.5], [98.1 - 97.8, 96.1 - 95.8]])
def test_nothing_says_how_one_difference_varies_or_equal_ones(differences):
    low, high, kind = bootstrap_interval(differences)
    assert math.isnan(low) and math.isnan(high) and kind == ""


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, not 95"):
        bootstrap_interval([1.0, 2.0], 95)
    with pytest.raises(ValueError, match="must be finite"):
        bootstrap_interval([1.0, math.nan])


def test_only_common_seeds_are_compared_in_whatever_order(runs):
    rows = entries("swa", {2: 94.0, 0: 91.0, 1: 93.0, 7: 0.0}) + entries("sgd", {0: 90.0, 1: 91.0, 2: 93.5, 9: 0.0})
    table = paired_differences(runs(*rows))
    assert len(table) == 1, "plain training is not compared with itself"
    row = table.iloc[0]
    assert (row["label"], row["metric"], row["n"], row["interval"]) == ("swa", "accuracy", 3, "t")
    assert row["difference"] == pytest.approx((1 + 2 + 0.5) / 3)
    assert (row["low"], row["high"]) == pytest.approx(stats.t.interval(0.95, 2, 3.5 / 3, stats.sem([1, 2, 0.5])))
    assert table.attrs["notes"] == [
        "Warning: not the seeds of plain training, Δ is over the common ones: swa (cifar10 · resnet20): 3 common, 4 of "
        "its own, 4 of plain training."
    ]


def test_a_value_that_a_seed_lacks_is_not_compared(runs):
    frame = runs(*entries("a", {0: 91.0, 1: math.nan}), *entries("sgd", {0: 90.0, 1: 90.0}))
    row = paired_differences(frame).iloc[0]
    assert (row["n"], row["difference"], row["interval"]) == (1, 1.0, "")
    assert math.isnan(row["low"]) and math.isnan(row["high"])


def test_without_a_common_seed_there_is_no_difference(runs):
    row = paired_differences(runs(*entries("a", {0: 91.0}), *entries("sgd", {1: 90.0}))).iloc[0]
    assert row["n"] == 0 and math.isnan(row["difference"])


def test_each_dataset_has_its_own_plain_training(runs):
    both = [{"dataset": "a"}, {"dataset": "b"}]
    rows = [
        row for i, c in enumerate(both) for row in entries("swa", {0: 5.0 + i}, **c) + entries("sgd", {0: 3.0}, **c)
    ]
    rows += entries("swa", {0: 1.0}, dataset="c")
    table = paired_differences(runs(*rows))
    assert dict(zip(table["dataset"], table["difference"], strict=True)) == {"a": 2.0, "b": 3.0}
    assert "c · resnet20: no differences to plain training (no finished run of sgd)." in table.attrs["notes"]


def test_two_entries_of_plain_training_are_no_reference_but_two_names_of_one_are(runs):
    rows = entries("swa", {0: 5.0}) + entries("sgd", {0: 3.0}, key="s")
    other = entries("T0 = 3", {0: 3.0}, method="sgd", key="s")
    assert paired_differences(runs(*rows, *other))["difference"].tolist() == [2.0]
    table = paired_differences(runs(*rows, *entries("long", {0: 3.0}, method="sgd", key="t")))
    assert table.empty and "2 different entries of sgd" in table.attrs["notes"][-1]


def test_few_seeds_are_warned_of_by_name(runs):
    rows = entries("sgd", {0: 1.0, 1: 1.0, 2: 1.0}) + entries("a", {0: 1.0}) + entries("b", {0: 1.0, 1: 2.0})
    rows += entries("a", {0: 1.0}, dataset="digits") + entries("sgd", {0: 1.0}, dataset="digits")
    note = paired_differences(runs(*rows)).attrs["notes"][0]
    assert note == (
        "Warning: fewer than three seeds, too few to tell a difference from chance: a: 1, b: 2 (cifar10 · resnet20); "
        "all 2 entries (digits · resnet20)."
    )
    assert note in leaderboard(runs(*rows)).attrs["notes"]


def test_common_seeds_are_not_warned_of(runs):
    values = {0: 1.0, 1: 2.0, 2: 4.0}
    assert paired_differences(runs(*entries("a", values), *entries("sgd", values))).attrs["notes"] == []


def test_any_metric_and_confidence_can_be_compared_but_no_unknown_one(runs):
    frame = runs({"label": "a", "accuracy": 1.0, "nll": 0.2}, {"label": "sgd", "accuracy": 1.0, "nll": 0.5})
    assert paired_differences(frame, "nll")["difference"].tolist() == pytest.approx([-0.3])
    with pytest.raises(ValueError, match="no run has 'ece'"):
        paired_differences(frame, "ece")
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_differences(frame, confidence=1.0)


def test_an_entry_that_holds_a_seed_twice_is_refused(runs):
    with pytest.raises(ValueError, match="has seed 0 more than once"):
        paired_differences(runs(*entries("a", {0: 1.0}), *entries("a", {0: 2.0})))


def test_a_leaderboard_holds_the_differences(runs):
    seeds = {0: 0.0, 1: 1.0, 2: 5.0}
    rows = entries("swa", {s: 93.0 + v for s, v in seeds.items()}) + entries("sgd", {s: 92.0 for s in seeds})
    board = leaderboard(runs(*rows)).set_index("label")
    found = paired_differences(runs(*rows)).iloc[0]
    names = {"difference": "difference", "low": "difference_low", "high": "difference_high", "n": "difference_n"}
    assert [board.loc["swa", new] for new in names.values()] == [found[old] for old in names]
    assert math.isnan(board.loc["sgd", "difference"])


def test_an_infinite_value_is_named_and_has_no_interval(runs):
    rows = [{"label": "swa", "seed": s, "accuracy": 90.0, "nll": v} for s, v in enumerate((0.3, math.inf, 0.2))]
    rows += [{"label": "sgd", "seed": s, "accuracy": 90.0, "nll": 0.5 + s} for s in range(3)]
    row = paired_differences(frame := runs(*rows), "nll").iloc[0]
    assert row["difference"] == math.inf and math.isnan(row["low"]) and row["interval"] == ""
    notes = leaderboard(frame, "nll").attrs["notes"]
    assert any("infinite" in note and "swa (cifar10 · resnet20)" in note for note in notes)


def test_writing():
    row = {"difference": 0.314, "difference_low": -0.1, "difference_high": 0.728}
    assert format_difference(row, "accuracy") == "+0.31 [−0.10, +0.73]"
    assert format_difference(row | {"difference_low": math.nan}, "nll") == "+0.314 [n/a]"
    assert format_difference(row | {"difference": math.nan}, "nll") == "–"
