"""Predictions and arrays that runs saved to files."""

import numpy as np
import pytest

from analysis import flatness, load_arrays, load_predictions, load_runs


def test_predictions(frame):
    predictions = load_predictions(frame[:2])
    assert list(predictions) == frame["run_id"][:2].tolist()
    probabilities, labels = predictions[frame["run_id"][0]]
    assert probabilities.shape == (200, 10) and probabilities.dtype == np.float32
    assert labels.shape == (200,) and labels.dtype == np.int64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_predictions_that_are_gone(other_store):
    other_store.add("gone", "sgd", 4, metrics={"accuracy": 1.0})
    with pytest.raises(FileNotFoundError, match="sgd · resnet20 · cifar10 · seed 4"):
        load_predictions(load_runs("gone", store=other_store.uri))


def test_arrays_are_read_of_runs_that_have_them(frame):
    paths = load_arrays(frame, "path")
    several = frame[frame["members"] > 1]
    assert set(paths) == set(several["run_id"])
    run = several.iloc[0]
    assert set(paths[run["run_id"]]) == {"alpha", "accuracy", "nll", "pair_accuracy", "pair_nll"}
    np.testing.assert_array_equal(paths[run["run_id"]]["pair_accuracy"], run["accuracy"] - np.array([0.0, 3.0, 0.0]))
    assert len(load_arrays(frame, "flatness")) == len(frame)


def test_what_was_not_measured_is_said(frame):
    with pytest.raises(LookupError, match=r"no run has measured a path: add `evaluate: {path: true"):
        load_arrays(frame[frame["label"] == "sgd"], "path")
    with pytest.raises(LookupError, match="no run has measured a flatness"):
        flatness(frame.drop(columns="arrays"))


def test_arrays_that_are_gone(frame):
    gone = frame.assign(artifact_uri="file:///nowhere")
    with pytest.raises(FileNotFoundError, match=r"no arrays of .* at file:///nowhere/arrays.npz"):
        load_arrays(gone, "path")
