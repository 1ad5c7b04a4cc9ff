"""Relative changes of accuracy under corruption."""

import pytest

from analysis import change_under_corruption
from analysis.figures.corruption_plot import subtract_plain_training
from tests.analysis.conftest import LATE


def title_of_legend(figure):
    return figure.legends[0].get_title().get_text()


def test_changes_are_compared_with_plain_training_of_the_same_seed(frame):
    names = ["relative_change/fog"]
    change = frame.assign(**{names[0]: -0.1 * frame["members"] - 0.01 * frame["seed"]})
    table = subtract_plain_training(change, names)
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
