"""Plots of paths: what stands in which panel, and what is horizontal."""

import numpy as np
import pandas as pd
import pytest

from analysis import scores_along_path
from analysis.figures.path_plot import horizontal_levels
from analysis.figures.style import method_styles
from tests.analysis.conftest import LATE

DIP = np.array([0.0, 3.0, 0.0])
DEEP = "deep_ensemble(K=3)"


@pytest.fixture
def cifar(frame):
    """The runs of one cell; ensembles have a path there."""
    return frame[frame["architecture"] == "resnet20"]


def curves(ax, color):
    """Line style → what is drawn along α in a colour."""
    lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 3 and line.get_color() == color]
    return {line.get_linestyle(): line.get_ydata() for line in lines}


def legend(figure):
    return [text.get_text().replace(r"\$", "$") for text in figure.legends[0].get_texts()]


def lines(ax):
    """The means that are drawn, by their colour."""
    return {line.get_color(): line.get_xydata() for line in ax.get_lines() if len(line.get_xdata()) > 1}


def title_of_legend(figure):
    return figure.legends[0].get_title().get_text()


def test_one_network_or_a_pair(cifar):
    color = method_styles(cifar)[LATE].color
    one, pair = (scores_along_path(cifar, points=points) for points in ("one", "pair"))
    assert [ax.get_title() for ax in one.axes + pair.axes] == [
        "cifar10 · resnet20\nP(α)",
        "cifar10 · resnet20\nP(α), P(1 − α)",
    ]
    np.testing.assert_allclose(curves(one.axes[0], color)["-"], 94.1 - 1 - DIP)
    np.testing.assert_allclose(curves(pair.axes[0], color)["-"], 94.1 - DIP)


def test_both_in_one_panel(cifar):
    figure = scores_along_path(cifar, points="both")
    (ax,) = figure.axes
    found = curves(ax, method_styles(cifar)[LATE].color)
    np.testing.assert_allclose(found["--"], 94.1 - 1 - DIP)
    np.testing.assert_allclose(found["-"], 94.1 - DIP)
    assert ax.get_title() == "cifar10 · resnet20"
    assert legend(figure) == [DEEP, LATE, "plain training", "P(α)", "P(α), P(1 − α)"]


def test_references_are_horizontal_even_if_they_have_a_path(cifar):
    figure = scores_along_path(cifar, points="both", references=[DEEP, "swa"])
    (ax,) = figure.axes
    look = method_styles(cifar)
    assert curves(ax, look[DEEP].color) == {}, "their own path is not drawn"
    levels = {line.get_color(): line.get_ydata()[0] for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]}
    means = {look[DEEP].color: 95.2, look["swa"].color: 94.1, "black": 93.2}
    assert levels == pytest.approx(means)
    assert legend(figure)[:4] == [LATE, DEEP, "swa", "plain training"]
    assert figure.legends[0].get_title().get_text() == "", "nothing is without a path but what is a reference"


def test_several_entries_of_plain_training_are_no_line(cifar):
    other = cifar[cifar["method"] == "sgd"].assign(label="long", key="other", accuracy=10.0)
    both = pd.concat([cifar, other], ignore_index=True)
    both.attrs = cifar.attrs
    for runs, expected in ((cifar, {"": 93.2, "swa": 94.1}), (both, {"swa": 94.1})):
        (found,) = horizontal_levels(runs, "accuracy", ["swa"], "probabilities").values()
        assert found == pytest.approx(expected)


def test_logits_instead_of_probabilities(cifar, monkeypatch):
    with pytest.raises(
        LookupError, match=r"the path of .* has no logit_pair_accuracy; it has: accuracy, nll, pair_acc"
    ):
        scores_along_path(cifar, average="logits")
    paths = {
        run: {"alpha": np.array([0, 0.5, 1]), "accuracy": DIP, "pair_accuracy": DIP, "logit_pair_accuracy": 90 + DIP}
        for run in cifar.loc[cifar["label"] == LATE, "run_id"]
    }
    monkeypatch.setattr("analysis.figures.path_plot.load_arrays", lambda frame, name: paths)
    late = cifar.assign(**{"logit_average/accuracy": np.where(cifar["label"] == DEEP, 96.0, np.nan)})
    (ax,) = scores_along_path(late, points="pair", average="logits", references=[DEEP]).axes
    np.testing.assert_allclose(curves(ax, method_styles(cifar)[LATE].color)["-"], 90 + DIP)
    levels = sorted(line.get_ydata()[0] for line in ax.get_lines() if list(line.get_xdata()) == [0, 1])
    assert levels == pytest.approx([93.2, 96.0]), "an ensemble's logits, too; plain training has one network"


def test_a_path_that_goes_on_beyond_its_ends_marks_them(cifar, monkeypatch):
    alpha = np.array([-0.05, 0.5, 1.05])
    paths = {run: {"alpha": alpha, "accuracy": 90 + DIP} for run in cifar.loc[cifar["label"] == LATE, "run_id"]}
    monkeypatch.setattr("analysis.figures.path_plot.load_arrays", lambda frame, name: paths)
    (ax,) = scores_along_path(cifar, points="one").axes
    assert [list(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 3] == [list(alpha)]
    assert [line.get_xdata()[0] for line in ax.get_lines() if list(line.get_ydata()) == [0, 1]] == [0, 1]


def test_wrong_options(cifar):
    with pytest.raises(ValueError, match="unknown metric 'error'; known are: accuracy, nll"):
        scores_along_path(cifar, metric="error")
    with pytest.raises(ValueError, match="unknown points 'two'; known are: apart, one, pair, both"):
        scores_along_path(cifar, points="two")
    with pytest.raises(ValueError, match="unknown average 'weights'; known are: probabilities, logits"):
        scores_along_path(cifar, average="weights")
    with pytest.raises(ValueError, match=r"references must be a list of labels, as in \[swa\]"):
        scores_along_path(cifar, references="swa")
    with pytest.raises(LookupError, match="no finished run of the reference 'fge'; there are: deep_ensemble"):
        scores_along_path(cifar, references=["fge"])


def test_path_plot(frame):
    figure = scores_along_path(frame)
    assert [ax.get_title() for ax in figure.axes] == [
        "cifar10 · resnet20\nP(α)",
        "cifar10 · resnet20\nP(α), P(1 − α)",
        "digits · lenet\nP(α)",
        "digits · lenet\nP(α), P(1 − α)",
    ]
    pair = list(lines(figure.axes[1]).values())
    expected = np.mean([95.0, 95.1, 95.5]) - np.array([0.0, 3.0, 0.0])
    assert any(len(points) == 3 and np.allclose(points[:, 1], expected) for points in pair)
    assert [line.get_ydata()[0] for line in figure.axes[1].get_lines() if line.get_linestyle() == ":"] == [93.2]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["deep_ensemble(K=3)", LATE.replace("$", r"\$"), "plain training"]
    assert title_of_legend(figure) == "Without a path: swa"
    assert scores_along_path(frame, "nll").axes[0].get_ylabel() == "NLL (nats)"


def test_a_barrier_does_not_fill_the_path_plot(frame):
    top = scores_along_path(frame, "accuracy").axes[1]
    low, high = top.get_ylim()
    assert low > 93.2 - (high - 93.2), "the axis ends a little below plain training"
