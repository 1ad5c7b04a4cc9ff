"""The best entries within budgets, against hand-made cases."""

import pandas as pd
import pytest

from analysis import best_within_budget, leaderboard
from tests.analysis.comparisons.entries import METHODS, entry


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
    with pytest.raises(ValueError, match="ranks by 'accuracy', not by 'nll': rank by 'nll' instead"):
        best_within_budget(board, "nll")
