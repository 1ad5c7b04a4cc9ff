"""Reliability diagrams and their bins."""

import numpy as np
import pandas as pd
import pytest

from analysis import reliability
from analysis.figures.reliability_plot import bin_confidence


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_reliability_plot(frame):
    figure = reliability(frame)
    assert len(figure.axes) == 4  # a diagram a method
    assert legend(figure) == ["cifar10 · resnet20", "digits · lenet"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.0100", "0.0300"]  # ECE, from below


@pytest.mark.parametrize("votes", range(1, 16))
def test_votes_fall_into_the_bin_that_ends_with_their_share(votes):
    """Probabilities are stored in float32, in which 8/15 is more than 8/15."""
    mixed = np.array([[votes / 15, 0.0], [(votes - 0.5) / 15, 0.0]]).astype(np.float32)
    assert len(bin_confidence(mixed, np.array([0, 0]))) == 1


def test_bins():
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [1.0, 0.0], [0.5, 0.5]])
    table = bin_confidence(p, np.array([0, 0, 0, 0, 1]), bins=5)  # edges 0.4, 0.6, 0.8, 1
    expected = {"confidence": [0.55, (0.9 + 0.9 + 1) / 3], "accuracy": [0.5, 2 / 3], "share": [0.4, 0.6]}
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected))
