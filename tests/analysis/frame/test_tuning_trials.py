"""Trials loaded from a store."""

import pytest

from analysis import load_tuning
from tests.analysis.tuning_searches import SPACE


def test_trials_are_rows(tuned):
    rows = tuned[(tuned["label"] == "first") & (tuned["architecture"] == "resnet20")]
    assert list(rows["number"]) == list(range(10))
    assert list(rows["state"]) == ["finished"] * 8 + ["pruned", "refused"]
    assert rows["value"].iloc[0] == 1.5
    assert rows["value"].iloc[8] == 3.0, "of a pruned trial the last"
    assert rows["value"].isna().iloc[9]
    assert rows["values"].iloc[1] == {"a": 0.125, "kind": "1/K"}
    assert rows["space"].iloc[0] == SPACE
    assert set(rows["metric"]) == {"nll"}


def test_of_a_method_searched_twice_the_latest_counts(tuned):
    rows = tuned[tuned["label"] == "second"]
    assert list(rows["value"].dropna()) == [0.5]
    assert list(rows["state"]) == ["finished", "failed"]


def test_a_study_that_was_not_tuned(store):
    with pytest.raises(LookupError, match="no study 'twice · tuning'"):
        load_tuning("twice", store=store.uri)
