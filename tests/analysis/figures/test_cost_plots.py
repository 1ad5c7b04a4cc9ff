"""Accuracy against the cost of training and of prediction."""

import numpy as np
import pandas as pd
import pytest

from analysis import accuracy_against_cost, accuracy_against_predict_cost


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_cost_plot(frame):
    figure = accuracy_against_cost(frame)
    assert [ax.get_title() for ax in figure.axes] == ["cifar10 · resnet20", "digits · lenet"]
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "log"]
    points = {tuple(np.round(bar[0].get_xydata()[0], 2)) for bar in figure.axes[0].containers}
    assert (3.0, 95.2) in points  # the deep ensemble
    assert {y for _, y in points} == {95.2, 94.1, 93.2}
    front = figure.axes[0].lines[0].get_xydata()
    assert front[:, 1].tolist() == pytest.approx([94.1, 95.2, 95.2]), "one network late, then three"
    assert front[:2, 0].tolist() == pytest.approx([1.0, 3.0]), "at the true costs"
    assert figure.axes[0].lines[0].get_drawstyle() == "steps-post"
    assert all(((front[:, 0] <= 1.05 * x) & (front[:, 1] >= y - 0.01)).any() for x, y in points), "none lies above it"
    opacity = {bar[0].get_ydata()[0]: bar[0].get_alpha() for bar in figure.axes[0].containers}
    assert opacity[93.2] < 1 and max(opacity.values()) == 1
    x = sorted(x for x, _ in points)
    assert all(0.97 < cost < 1.06 for cost in x[:3]) and len(set(x)) == 4  # none hides another
    assert legend(figure) == ["sgd", "deep_ensemble(K=3)", r"late_phase_bn(K=5) <&_%\$|*", "swa", "Pareto front"]


def test_equal_costs_are_moved_apart_by_name_and_never_far(runs):
    names = [f"m{i}" for i in range(20)]
    rows = [{"label": name, "accuracy": 90.0 + i % 7, "cost/forwards_per_example": 1.0} for i, name in enumerate(names)]
    rows += [{"label": f"few{i}", "accuracy": 95.0, "cost/forwards_per_example": 3.0} for i in range(2)]
    figure = accuracy_against_predict_cost(runs(*rows))
    drawn = sorted(row["label"] for row in rows)
    x = dict(zip(drawn, (bar[0].get_xdata()[0] for bar in figure.axes[0].containers), strict=True))
    few, many = (np.array([x[name] for name in group]) for group in (["few0", "few1"], names))
    assert (np.diff(many) > 0).all(), "in the order of the legend, m2 before m10"
    assert many.min() == pytest.approx(1 / 1.04) and many.max() == pytest.approx(1.04)
    assert few / 3 == pytest.approx([np.exp(-0.008), np.exp(0.008)])


def test_what_is_infinitely_bad_is_named_and_ties_leave_nothing_out(runs):
    cost = {"cost/forwards_per_example": 1.0, "accuracy": 90.0}
    ties = {name: 0.5 for name in ("a", "b", "c", "d")} | {"worse": 0.6}
    rows = [cost | {"label": name, "nll": nll} for name, nll in ties.items()]
    (ax,) = accuracy_against_predict_cost(runs(*rows), "nll").axes
    assert not ax.texts and ax.get_ylim()[1] > 0.6
    (ax,) = accuracy_against_predict_cost(runs(*rows, cost | {"label": "lost", "nll": np.inf}), "nll").axes
    assert [text.get_text() for text in ax.texts] == ["↑ lost inf"] and 0.6 < ax.get_ylim()[1] < 1


def test_cost_plot_of_predictions(frame):
    figure = accuracy_against_predict_cost(frame)
    front = figure.axes[0].lines[0].get_xydata()
    assert front[:, 1].tolist() == pytest.approx([94.1, 94.1, 95.2, 95.2]), "two tie at one network"
    assert figure.axes[0].get_xlabel().startswith("Prediction cost (× one network;")
    with pytest.raises(LookupError, match="no prediction cost to plot"):
        accuracy_against_predict_cost(frame.drop(columns="cost/forwards_per_example"))


def test_cost_plot_by_a_metric_of_which_less_is_better(frame):
    front = accuracy_against_cost(frame, "nll").axes[0].lines[0].get_xydata()
    assert front[:, 1].tolist() == pytest.approx([0.21, 0.16, 0.16])
    with pytest.raises(ValueError, match="neither direction of 'members'"):
        accuracy_against_cost(frame, "members")
    with pytest.raises(LookupError, match="no run has 'bpc'"):
        accuracy_against_cost(frame, "bpc")


def test_cost_plot_names_what_has_no_known_cost_and_what_is_far_off(frame):
    swa = frame["label"] == "swa"
    figure = accuracy_against_cost(frame.assign(**{"cost/forward_examples": frame["cost/forward_examples"].mask(swa)}))
    assert figure.legends[0].get_title().get_text() == "Without a known relative training cost or Accuracy: swa"
    one = frame[frame["architecture"] == "resnet20"]
    far = one.assign(label="far", method="far", accuracy=20.0, key="far")[one["label"] == "swa"]
    (ax,) = accuracy_against_cost(pd.concat([one, far], ignore_index=True)).axes
    assert [text.get_text() for text in ax.texts] == ["↓ far 20.00"] and ax.get_ylim()[0] > 90


def test_cost_plot_without_sgd(frame):
    with pytest.raises(LookupError, match="no finished run of sgd"):
        accuracy_against_cost(frame[frame["label"] != "sgd"])
