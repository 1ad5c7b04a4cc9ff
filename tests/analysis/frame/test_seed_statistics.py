"""Means, spreads and relative costs against numbers worked out by hand."""

import numpy as np
import pytest

from analysis import relative_costs, summarize


def cost(forward, backward, seconds, forwards=1):
    names = ("cost/forward_examples", "cost/backward_examples", "cost/train_seconds", "cost/forwards_per_example")
    return dict(zip(names, (forward, backward, seconds, forwards), strict=True))


def test_mean_and_sample_deviation(runs):
    frame = runs(*({"label": "sgd", "seed": i, "accuracy": a} for i, a in enumerate([90.0, 92.0, 97.0])))
    row = summarize(frame).iloc[0]
    assert (row["n"], row["accuracy_mean"]) == (3, 93.0)
    assert row["accuracy_std"] == pytest.approx(np.sqrt(13.0))  # (9 + 1 + 16) / 2


def test_one_seed_has_no_deviation(runs):
    row = summarize(runs({"label": "sgd", "accuracy": 90.0})).iloc[0]
    assert np.isnan(row["accuracy_std"])


def test_a_value_that_a_seed_lacks_is_noted(runs):
    frame = runs(
        {"label": "sgd", "seed": 0, "accuracy": 90.0, "ood_auroc": 0.8},
        {"label": "sgd", "seed": 1, "accuracy": 91.0, "ood_auroc": float("nan")},
    )
    board = summarize(frame)
    assert board.loc[0, "ood_auroc_mean"] == 0.8
    assert board.attrs["notes"] == ["sgd (cifar10 · resnet20): OOD AUROC from 1 of 2 seeds."]


def test_relative_costs(runs):
    frame = relative_costs(
        runs(
            {"label": "sgd", "seed": 0, **cost(100, 100, 10)},
            {"label": "sgd", "seed": 1, **cost(100, 100, 14)},
            {"label": "swa", **cost(130, 100, 18)},
            {"label": "deep", **cost(500, 500, 60, 5)},
            {"label": "sgd", "dataset": "digits", **cost(10, 10, 1)},
            {"label": "swa", "dataset": "digits", **cost(20, 20, 2)},
        )
    )
    assert frame["train_cost"].tolist() == pytest.approx([1, 1, 1.1, 5, 1, 2])  # 330 / 300, 1500 / 300
    assert frame["train_time"].tolist() == pytest.approx([10 / 12, 14 / 12, 1.5, 5, 1, 2])
    assert frame["predict_cost"].tolist() == [1, 1, 1, 5, 1, 1]
    assert frame.attrs["notes"] == []


def test_without_sgd_no_cost_is_guessed(runs):
    rows = {"label": "swa", **cost(130, 100, 18)}, {"label": "deep", **cost(500, 500, 60, 5)}
    frame = relative_costs(runs(*rows))
    assert "train_cost" not in frame and "train_time" not in frame
    assert frame["predict_cost"].tolist() == [1, 5]
    assert frame.attrs["notes"] == ["cifar10 · resnet20: no relative training cost (no finished run of sgd)."]


def test_two_entries_of_sgd_are_no_reference(runs):
    rows = {"label": "sgd", **cost(1, 1, 1)}, {"label": "sgd, long", "method": "sgd", **cost(2, 2, 2)}
    frame = relative_costs(runs(*rows))
    assert "train_cost" not in frame
    assert "2 different entries of sgd" in frame.attrs["notes"][0]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 1, "evaluated_on": "validation"}, "test and validation"),
        ({"seed": 0}, "cifar10 · resnet20 · sgd has seed 0 more than once"),
        ({"seed": 1, "method": "swa"}, r"stands for different methods \(sgd, swa\)"),
    ],
)
def test_what_does_not_belong_in_one_table(runs, second, message):
    frame = runs({"label": "sgd", "accuracy": 90.0}, {"label": "sgd", "accuracy": 91.0} | second)
    with pytest.raises(ValueError, match=message):
        summarize(frame)
