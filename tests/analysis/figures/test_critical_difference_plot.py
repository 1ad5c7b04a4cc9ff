"""The critical-difference diagram: its points, groups and size."""

import itertools

import numpy as np
import pytest

from analysis import critical_difference_diagram
from analysis.comparisons.average_ranks import critical_difference


def test_the_diagram_shows_ranks_groups_and_the_critical_difference(scored):
    figure = critical_difference_diagram(scored([[1, 2, 3]] * 6))
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["m2", "m1", "m0"]
    lines = [line.get_xydata() for line in ax.lines]
    points = [tuple(line[0]) for line in lines if len(line) == 1]
    assert points == [(1, 0), (2, 1), (3, 2)]
    (distance,) = [line for line in lines if len(line) == 2 and line[0, 1] == line[1, 1]]
    assert distance[1, 0] - distance[0, 0] == pytest.approx(critical_difference(3, 6))
    assert [text.get_text() for text in ax.texts] == ["CD = 1.35"]
    bars = [line for line in lines if len(line) == 2 and line[0, 0] == line[1, 0]]
    assert [(round(a), round(b)) for (_, a), (_, b) in bars] == [(0, 1), (1, 2)]
    assert bars[0][0, 0] < bars[1][0, 0], "side by side"


def test_a_diagram_without_a_difference_joins_all_and_shows_no_critical_difference(scored):
    figure = critical_difference_diagram(scored([[1, 1, 1]] * 6))
    assert not figure.axes[0].texts
    assert "No difference is shown" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_a_diagram_of_many_long_names_fits_into_a_column(scored):
    names = [f"deep_ensemble(late_phase_bn(K={i}), K=10)" for i in range(30)]
    figure = critical_difference_diagram(scored(np.random.default_rng(0).normal(size=(6, 30)).tolist(), names))
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] <= 3.5
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert min(box.x0 for box in boxes) >= 0
    assert all(below.y1 <= above.y0 + 1 for above, below in itertools.pairwise(boxes)), "no overlap"
    note, bottom = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent().y0
    assert note.y1 <= bottom and note.x1 <= figure.bbox.x1
