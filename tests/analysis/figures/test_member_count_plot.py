"""A metric against the number of members."""

import numpy as np
import pytest

from analysis import metric_against_members


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_members_plot(frame):
    figure = metric_against_members(frame, "nll")
    assert legend(figure) == ["sgd", "deep_ensemble(K=3)", r"late_phase_bn(K=5) <&_%\$|*"]
    assert figure.axes[0].get_ylabel() == "NLL (nats)"
    deep = next(bar[0].get_xydata() for bar in figure.axes[1].containers)
    np.testing.assert_allclose(np.round(deep[:, 0]), [1, 2, 3])
    np.testing.assert_allclose(deep[:, 1], [0.10, 0.08, 0.06])


def test_members_plot_of_single_members(frame):
    with pytest.raises(LookupError, match="nll over more than one member"):
        metric_against_members(frame[frame["label"] == "sgd"], "nll")
    with pytest.raises(ValueError, match="unknown metric 'brier'; known are: accuracy, nll, ece"):
        metric_against_members(frame, "brier")
