"""Plots of paths, planes, flatness, epochs and corruptions: what they show of synthetic runs."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis import (
    change_under_corruption,
    flatness,
    load_arrays,
    over_epochs,
    scores_along_path,
    scores_on_plane,
)
from analysis.figures.style import draw_band, looks
from analysis.figures.under_corruption import differences
from tests.analysis.conftest import LATE


def title_of_legend(figure):
    return figure.legends[0].get_title().get_text()


def lines(ax):
    """The means that are drawn, by their colour."""
    return {line.get_color(): line.get_xydata() for line in ax.get_lines() if len(line.get_xdata()) > 1}


def test_arrays_are_read_of_runs_that_have_them(frame):
    paths = load_arrays(frame, "path")
    several = frame[frame["members"] > 1]
    assert set(paths) == set(several["run_id"])
    run = several.iloc[0]
    assert set(paths[run["run_id"]]) == {"alpha", "accuracy", "nll", "pair_accuracy", "pair_nll"}
    np.testing.assert_array_equal(paths[run["run_id"]]["pair_accuracy"], run["accuracy"] - np.array([0.0, 3.0, 0.0]))
    assert len(load_arrays(frame, "flatness")) == len(frame)


def test_what_was_not_measured_is_said(frame):
    with pytest.raises(LookupError, match=r"no run has a measured path: a study asks for it by `evaluate: {path: true"):
        load_arrays(frame[frame["label"] == "sgd"], "path")
    with pytest.raises(LookupError, match="no run has a measured flatness"):
        flatness(frame.drop(columns="arrays"))


def test_arrays_that_are_gone(frame):
    gone = frame.assign(artifact_uri="file:///nowhere")
    with pytest.raises(FileNotFoundError, match=r"no arrays of .* at file:///nowhere/arrays.npz"):
        load_arrays(gone, "path")


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
    monkeypatch.setattr("analysis.figures.plane_and_flatness.load_arrays", lambda frame, name: without)
    with pytest.raises(LookupError, match="no plane has train_nll; there is: error, accuracy, nll"):
        scores_on_plane(frame, quantities=["nll", "train_nll"])


def test_flatness_plot(frame):
    figure = flatness(frame)
    black = lines(figure.axes[0])[(0.0, 0.0, 0.0)]
    np.testing.assert_allclose(black, [[0.0, 0.0], [0.1, np.mean([0.2, 1.2, 2.2])]])
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(1.2 + 1.0), "the sample standard deviation of 0.2, 1.2 and 2.2 is 1"


def test_epochs_plot(frame):
    figure = over_epochs(frame)
    labels = [ax.get_ylabel() for ax in figure.axes]
    expected = ["Test accuracy (%)", "Test NLL (nats)", "Training loss (nats)", "L2 distance", "Squared cosine"]
    assert labels == [label for label in expected for _ in range(2)], "a row a quantity, a column a network"
    black = lines(figure.axes[0])[(0.0, 0.0, 0.0)]
    np.testing.assert_allclose(black, [[1, 88.2], [2, 93.2]])
    assert len(lines(figure.axes[6])) == 2, "distances of those that have several networks"


def test_epochs_plot_of_chosen_quantities_from_an_epoch_on(frame):
    figure = over_epochs(
        frame, series=["test/nll", "train/lr"], start=2, marks={"T0": 2, "$": 0.5, "end": 1.0, "no": 3}
    )
    assert [ax.get_ylabel() for ax in figure.axes] == ["Test NLL (nats)"] * 2 + ["Learning rate"] * 2
    assert {tuple(line.get_xdata()) for line in figure.axes[2].get_lines()} == {(2.0,), (2.0, 2.0)}, "and the marks"
    assert [text.get_text() for text in figure.axes[0].texts] == ["T0", "end"], "the others are outside"
    later = over_epochs(frame, start=1.0).axes[0].get_lines()
    assert {tuple(line.get_xdata()) for line in later} == {(2.0,)}, "a fraction of the two epochs"


def test_epochs_plot_of_what_is_not_there(frame):
    with pytest.raises(LookupError, match=r"no run has distance/cosine tracked over epochs$"):
        over_epochs(frame, series=["distance/cosine"])
    with pytest.raises(LookupError, match=r"no run has anything tracked .* from epoch 3 on \(the last one is 2\)"):
        over_epochs(frame, start=3)
    with pytest.raises(ValueError, match="unknown series 'accuracy'; known are: test/accuracy, test/bpc, test/nll"):
        over_epochs(frame, series=["accuracy"])
    with pytest.raises(ValueError, match=r"1.5 is no fraction of all epochs"):
        over_epochs(frame, marks={"T0": 1.5})
    with pytest.raises(ValueError, match=r"a place in training is an epoch, or a fraction of all epochs; got '60 %'"):
        over_epochs(frame, start="60 %")


def test_changes_are_compared_with_plain_training_of_the_same_seed(frame):
    names = ["relative_change/fog"]
    change = frame.assign(**{names[0]: -0.1 * frame["members"] - 0.01 * frame["seed"]})
    table = differences(change, names)
    assert "sgd" not in set(table["label"])
    members = {"swa": 1, "deep_ensemble(K=3)": 3, LATE: 5}
    for _, row in table.iterrows():
        assert row[names[0]] == pytest.approx(-0.1 * (members[row["label"]] - 1)), "the seeds' share cancels"
    assert len(table) == 3 * 3 + 1, "digits has one seed of its ensemble, two of plain training"
    figure = change_under_corruption(change)
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert figure.axes[0].get_title() == "deep_ensemble\n(K=3)"
    assert bars == pytest.approx([-0.2, -0.2]), "on both networks"
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["fog"]


def test_the_title_of_generated_corruptions_is_not_cut_off(frame):
    figure = change_under_corruption(frame.assign(**{"generated/relative_change/fog": -0.1 * frame["members"]}))
    assert "(generated corruptions)" in title_of_legend(figure).replace("\n", " ")
    figure.draw_without_rendering()
    box = figure.legends[0].get_title().get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_corruption_plot_without_what_it_needs(frame):
    with pytest.raises(LookupError, match="no run has relative changes"):
        change_under_corruption(frame)
    change = frame.assign(**{"relative_change/fog": -0.1})
    with pytest.raises(LookupError, match="no method has a finished run of sgd with the same seed"):
        change_under_corruption(change[change["label"] != "sgd"])


def test_a_band_leaves_out_what_a_seed_lacks():
    ax = Figure().subplots()
    draw_band(ax, np.arange(3.0), np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]]), looks(["a"])["a"])
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [2.0, 2.0, np.nan])
