"""Relative costs against numbers worked out by hand."""

import pytest

from analysis import relative_costs


def cost(forward, backward, seconds, forwards=1):
    names = ("cost/forward_examples", "cost/backward_examples", "cost/train_seconds", "cost/forwards_per_example")
    return dict(zip(names, (forward, backward, seconds, forwards), strict=True))


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
