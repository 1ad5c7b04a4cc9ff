"""Figures of tuning: trials, the best value so far, and importances."""

import pytest

from analysis import importances, save, tuning_history


def test_importance_finds_what_decides(tuned):
    rows = tuned[(tuned["label"] == "first") & (tuned["architecture"] == "resnet20")]
    found = importances(rows)
    assert list(found) == ["a", "kind"]
    assert found["a"] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)
    assert found == importances(rows), "the same every time"
    assert importances(rows.iloc[:3]) == {}, "too few"
    assert importances(rows.iloc[[0] * 5]) == {}, "no differences"


def test_the_figures(tuned, tmp_path):
    figures = tuning_history(tuned)
    assert list(figures) == ["cifar10 · lenet", "cifar10 · resnet20"]
    figure = figures["cifar10 · resnet20"]
    axes = {ax.get_title(): ax for ax in figure.axes if ax.get_title()}
    assert set(axes) == {"first", "second"}
    lines = {line.get_marker(): line for line in axes["first"].lines}
    assert list(lines["D"].get_xydata()[0]) == [0, 1.5]
    assert list(lines["x"].get_xydata()[0]) == [8, 3.0]
    assert len(lines["o"].get_xydata()) == 7
    best = next(line for line in axes["first"].lines if line.get_marker() == "None")
    assert list(best.get_ydata()) == [1.5, 1.375, 1.25, 1.125, 1.0, 1.0, 1.0, 1.0, 1.0]
    bars = [patch.get_width() for ax in figure.axes for patch in ax.patches]
    assert sum(bars) == pytest.approx(1.0)
    assert axes["first"].get_ylabel() == "Validation NLL\n(nats)"
    for path in save(figure, tmp_path / "tuning"):
        assert path.stat().st_size > 5_000


def test_each_panel_names_its_own_metric(tuned):
    """One method was tuned by the likelihood, another one on the same cell by the accuracy."""
    frame = tuned[tuned["architecture"] == "resnet20"].copy()
    frame.loc[frame["label"] == "second", "metric"] = "accuracy"
    (figure,) = tuning_history(frame).values()
    named = {ax.get_title(): ax.get_ylabel() for ax in figure.axes if ax.get_title()}
    assert named == {"first": "Validation NLL\n(nats)", "second": "Validation accuracy\n(%)"}
    assert figure.get_supylabel() == ""
