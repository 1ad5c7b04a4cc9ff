"""Pareto fronts and the best within a budget, against a naive search and hand-made cases."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import best_within_budget, leaderboard, pareto_fronts
from analysis.comparisons.pareto_fronts import is_undominated


def entry(label, accuracy, train, predict=1, **columns):
    costs = {"cost/forward_examples": 100.0 * train, "cost/backward_examples": 100.0 * train}
    return {"label": label, "accuracy": accuracy, **costs, "cost/forwards_per_example": predict} | columns


METHODS = [
    entry("sgd", 90.0, 1.0),
    entry("better", 91.0, 1.004, 4),  # its cost is written 1.00
    entry("worse", 89.0, 1.5, 3),
    entry("twice", 93.0, 2.0, 3),
    entry("as good", 93.0, 3.0, 2),
    entry("best", 95.0, 5.0, 10),
]


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
    note = "No train cost known, so on no front and within no budget: unknown (cifar10 · resnet20)."
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


def test_the_best_within_each_budget(runs):
    found = best_within_budget(runs(*METHODS), budgets=(4.0, 1.0, 2.5))
    trained = found[found["cost"] == "train_cost"]
    assert trained["budget"].tolist() == [1.0, 2.5, 4.0, 4.0]
    assert trained["label"].tolist() == ["better", "twice", "as good", "twice"], "one whose cost reads 1.00 costs 1.0"
    assert trained["within"].tolist() == [2, 4, 5, 5]
    predicted = found[found["cost"] == "predict_cost"]
    assert predicted["label"].tolist() == ["sgd", "as good", "as good", "twice"]
    first = found.iloc[0]
    assert (first["accuracy_mean"], first["train_cost_mean"], first["difference"]) == (91.0, pytest.approx(1.004), 1.0)


def test_ties_within_a_budget_are_decided_as_in_a_leaderboard(runs):
    nll = {"twice": 0.3, "as good": 0.2}
    frame = runs(*(row | {"nll": nll.get(row["label"], 0.5)} for row in METHODS))
    found = best_within_budget(frame, budgets=[4])
    assert found["label"].tolist() == ["as good", "as good"]


def test_a_board_gives_the_same_and_keeps_its_metric(runs):
    frame = runs(*(row | {"nll": row["accuracy"]} for row in METHODS))
    pd.testing.assert_frame_equal(best_within_budget(leaderboard(frame, "nll")), best_within_budget(frame, "nll"))
    assert set(best_within_budget(frame, "nll", [1.0])["label"]) == {"sgd"}


def test_each_dataset_has_its_own_best_and_too_small_a_budget_none(runs):
    other = [entry("sgd", 50.0, 7.0, dataset="digits"), entry("big", 60.0, 70.0, dataset="digits")]
    found = best_within_budget(runs(*METHODS, *other), budgets=[0.5, 1.0])
    best = found[found["cost"] == "train_cost"].set_index("dataset")["label"]
    assert best.to_dict() == {"cifar10": "better", "digits": "sgd"}
    assert set(found["budget"]) == {1.0}


def test_what_cannot_be_a_budget_is_refused(runs):
    with pytest.raises(ValueError, match=r"budgets must be positive, not \[0\]"):
        best_within_budget(runs(*METHODS), budgets=[0])
    with pytest.raises(ValueError, match="neither direction of 'members'"):
        best_within_budget(runs(*(row | {"members": 1.0} for row in METHODS)), "members")


def test_a_leaderboard_has_budgets_by_its_own_metric_only(runs):
    board = leaderboard(runs(*METHODS))
    assert best_within_budget(board, "accuracy").attrs["by"] == "accuracy"
    with pytest.raises(ValueError, match="ranks by 'accuracy', not by 'nll': make one that does"):
        best_within_budget(board, "nll")
