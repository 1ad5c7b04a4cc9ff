"""Values over the epochs of training."""

import numpy as np
import pytest

from analysis import over_epochs


def lines(ax):
    """The means that are drawn, by their colour."""
    return {line.get_color(): line.get_xydata() for line in ax.get_lines() if len(line.get_xdata()) > 1}


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
    with pytest.raises(ValueError, match=r"1.5 is not a fraction of all epochs"):
        over_epochs(frame, marks={"T0": 1.5})
    with pytest.raises(
        ValueError, match=r"a position in training is an epoch, or a fraction of all epochs; got '60 %'"
    ):
        over_epochs(frame, start="60 %")
