"""Plots of planes and flatness."""

import numpy as np
import pytest

from analysis import (
    flatness,
    load_arrays,
    scores_on_plane,
)
from tests.analysis.conftest import LATE


def title_of_legend(figure):
    return figure.legends[0].get_title().get_text()


def lines(ax):
    """The means that are drawn, by their colour."""
    return {line.get_color(): line.get_xydata() for line in ax.get_lines() if len(line.get_xdata()) > 1}


def test_plane_plot(frame):
    figure = scores_on_plane(frame)
    titles = [row.get_suptitle() for row in figure.subfigs]
    assert titles == [
        "deep_ensemble(K=3) · cifar10 · resnet20 · seed 0",
        LATE.replace("$", r"\$") + " · cifar10 · resnet20 · seed 0",
        "deep_ensemble(K=3) · digits · lenet · seed 0",
    ]
    assert title_of_legend(figure) == "Without a plane: sgd, swa"
    panels = [ax for ax in figure.subfigs[0].axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["Test error (%)", "Test NLL (nats)", "Training NLL (nats)"]
    marks = [tuple(line.get_xydata()[0]) for line in panels[0].get_lines() if len(line.get_xdata()) == 1]
    assert marks == [(0.0, 0.0), (2.0, 0.0), (1.0, 1.5)]
    assert [text.get_text() for text in panels[0].texts] == ["1", "2", "sgd"]
    assert panels[0].get_xlabel() == "Distance in weights"


def test_plane_plot_of_one_quantity_stands_side_by_side(frame):
    error, accuracy = (scores_on_plane(frame, quantities=[name]) for name in ("error", "accuracy"))
    assert [place.get_suptitle().split("\n")[0] for place in error.subfigs][::2] == ["deep_ensemble(K=3)"] * 2
    assert len({place.bbox.y0 for place in error.subfigs}) == 1, "in one row"
    panels = [place.axes[0] for place in (error.subfigs[0], accuracy.subfigs[0])]
    assert [ax.get_title() for ax in panels] == ["Test error (%)", "Test accuracy (%)"]
    levels = [next(each for each in ax.collections if each.get_array() is not None).levels for ax in panels]
    np.testing.assert_allclose(levels[1], 100 - levels[0][::-1]), "the same levels, seen from above"


def test_plane_plot_of_a_quantity_that_is_not_there(frame, monkeypatch):
    with pytest.raises(ValueError, match="unknown quantity 'loss'; known are: error, accuracy, nll, train_nll"):
        scores_on_plane(frame, quantities=["loss"])
    planes = load_arrays(frame, "plane")
    without = {
        run: {name: array for name, array in plane.items() if name != "train_nll"} for run, plane in planes.items()
    }
    monkeypatch.setattr("analysis.figures.plane_and_flatness_plots.load_arrays", lambda frame, name: without)
    with pytest.raises(LookupError, match="no plane has train_nll; there is: error, accuracy, nll"):
        scores_on_plane(frame, quantities=["nll", "train_nll"])


def test_flatness_plot(frame):
    figure = flatness(frame)
    black = lines(figure.axes[0])[(0.0, 0.0, 0.0)]
    np.testing.assert_allclose(black, [[0.0, 0.0], [0.1, np.mean([0.2, 1.2, 2.2])]])
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(1.2 + 1.0), "the sample standard deviation of 0.2, 1.2 and 2.2 is 1"
