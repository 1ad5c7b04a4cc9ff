"""Metrics side by side: rows, dots and bars."""

import numpy as np
import pandas as pd
import pytest

from analysis import metric_by_method


@pytest.fixture
def three(runs):
    rows = [{"label": "swa", "seed": s, "accuracy": 91.0 + 2 * s, "nll": 0.5, "diversity/l2": np.nan} for s in (0, 1)]
    rows += [{"label": "Base", "method": "sgd", "accuracy": 90.0, "nll": 0.6, "diversity/l2": np.nan}]
    rows += [{"label": "two", "accuracy": 93.0, "nll": np.nan, "diversity/l2": 12.0, "chosen_on": "test"}]
    return runs(*rows).fillna({"chosen_on": ""})


def rows(ax, first=None):
    """Name, as the first panel of the row has it → the dot's place, and half its bar."""
    texts = (first or ax).get_yticklabels()
    names = {place: text.get_text() for place, text in zip(ax.get_yticks(), texts, strict=True)}
    found = {}
    for bars in ax.containers:
        ((x, y),) = bars[0].get_xydata()
        ends = bars[2][0].get_segments()[0][:, 0] if bars[2] else None
        found[names[y]] = (x, None if ends is None else (ends[1] - ends[0]) / 2)
    return found


def test_dots_are_means_and_bars_standard_deviations(three):
    figure = metric_by_method(three, metrics=["accuracy", "nll"])
    left, right = figure.axes
    assert rows(left) == {"swa": (92.0, pytest.approx(2**0.5)), "Base": (90.0, None)}
    assert rows(right, left) == {"swa": (0.5, pytest.approx(0.0)), "Base": (0.6, None)}
    assert [left.get_xlabel(), right.get_xlabel()] == ["Accuracy (%)", "NLL (nats)"]
    assert left.get_title(loc="left") == "cifar10 · resnet20"
    assert [line.get_xdata()[0] for line in left.get_lines() if line.get_linestyle() == ":"] == [90.0]


def test_rows_stand_in_the_order_of_the_frame_or_in_that_asked_for(three):
    def names(**options):
        ax = metric_by_method(three, **options).axes[0]
        assert list(ax.get_yticks()) == sorted(ax.get_yticks()) and ax.yaxis.get_inverted()
        return [text.get_text() for text in ax.get_yticklabels()]

    assert names() == ["swa", "Base"]
    assert names(order=["Base", "swa"]) == ["Base", "swa"]
    assert names(order=["Base"]) == ["Base"]


def test_what_was_chosen_on_test_data_is_shown_only_if_asked_for_and_with_a_mark(three):
    figure = metric_by_method(three, metrics=["accuracy", "diversity/l2"], chosen_on_test=True)
    assert list(rows(figure.axes[0])) == ["swa", "Base", "two\n(chosen on test)"]
    assert rows(figure.axes[1], figure.axes[0]) == {"two\n(chosen on test)": (12.0, None)}


def test_a_cell_shows_the_methods_it_has(three, runs):
    other = runs({"label": "Base", "method": "sgd", "dataset": "digits", "accuracy": 99.0, "chosen_on": ""})
    figure = metric_by_method(pd.concat([three.iloc[:3], other], ignore_index=True))
    assert [list(rows(ax)) for ax in figure.axes] == [["swa", "Base"], ["Base"]]


def test_what_cannot_be_drawn_is_said(three):
    with pytest.raises(LookupError, match="no run has 'diversity/l2'; there is: accuracy, nll"):
        metric_by_method(three, metrics=["diversity/l2"])
    with pytest.raises(LookupError, match="no finished run of 'sgd'; there are: swa, Base"):
        metric_by_method(three, order=["sgd"])
    with pytest.raises(ValueError, match="order names a label twice: Base, Base"):
        metric_by_method(three, order=["Base", "Base"])
