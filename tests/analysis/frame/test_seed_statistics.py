"""Means, spreads and relative costs against numbers worked out by hand."""

import numpy as np
import pytest

from analysis import summarize


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
