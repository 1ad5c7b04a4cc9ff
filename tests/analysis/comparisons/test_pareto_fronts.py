"""Pareto fronts and the best within a budget, against a naive search and hand-made cases."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import best_within_budget, leaderboard, pareto_fronts
from analysis.comparisons.pareto_fronts import is_undominated
from tests.analysis.comparisons.entries import METHODS, entry


def on_front(table, cost):
    return table.loc[table[f"{cost}_front"], "label"].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_undominated_points_are_those_of_a_naive_search(seed):
    random = np.random.default_rng(seed)
    points = pd.DataFrame(random.integers(0, 6, (30, 2)), columns=["quality", "cost"], index=random.permutation(30))
    values = points.to_numpy()
    expected = [not any((other <= one).all() and (other < one).any() for other in values) for one in values]
    found = is_undominated(points)
    assert found.index.equals(points.index) and found.tolist() == expected


def test_fronts_against_both_costs(runs):
    table = pareto_fronts(runs(*METHODS))
    assert sorted(on_front(table, "train")) == ["best", "better", "twice"]
    assert sorted(on_front(table, "predict")) == ["as good", "best", "sgd"]
    assert table.attrs["notes"] == []
    names = ["dataset", "architecture", "label", "method", "accuracy_mean", "train_cost_mean", "predict_cost_mean"]
    assert table.columns.tolist() == [*names, "train_front", "predict_front"]


def test_means_over_seeds_decide_and_equals_do_not_dominate_each_other(runs):
    rows = [entry("sgd", 90.0, 1.0, seed=s) for s in range(2)]
    rows += [entry("even", 80.0 + 20 * s, 1.0, seed=s) for s in range(2)]
    assert on_front(pareto_fronts(runs(*rows)), "train") == ["even", "sgd"]


def test_less_may_be_better_and_neither_has_no_front(runs):
    frame = runs(*METHODS).assign(nll=lambda f: f["accuracy"], members=1.0)
    assert on_front(pareto_fronts(frame, "nll"), "train") == ["sgd", "worse"]
    assert pareto_fronts(frame, "members")["train_front"].isna().all()
    with pytest.raises(ValueError, match="no run has 'ece'"):
        pareto_fronts(frame, "ece")


def test_an_unknown_cost_is_on_no_front_and_named(runs):
    frame = runs(*METHODS, entry("unknown", 99.0, math.nan, 1))
    table = pareto_fronts(frame)
    row = table.set_index("label").loc["unknown"]
    assert pd.isna(row["train_front"]) and row["predict_front"]
    note = "Unknown train cost, so on no front and within no budget: unknown (cifar10 · resnet20)."
    assert table.attrs["notes"] == [note]
    assert note in leaderboard(frame).attrs["notes"]
    assert "unknown" not in best_within_budget(frame).query("cost == 'train_cost'")["label"].tolist()


def test_without_plain_training_there_is_no_front_of_training(runs):
    frame = runs(*METHODS[1:])
    table = pareto_fronts(frame)
    assert table["train_front"].isna().all() and on_front(table, "predict") == ["as good", "best"]
    assert set(best_within_budget(frame)["cost"]) == {"predict_cost"}


def test_a_leaderboard_holds_the_fronts(runs):
    board, table = leaderboard(runs(*METHODS)), pareto_fronts(runs(*METHODS))
    for cost in ("train", "predict"):
        assert sorted(on_front(board, cost)) == sorted(on_front(table, cost))
