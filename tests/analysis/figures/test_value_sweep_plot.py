"""Metrics over a value that labels name: which points, lines and marks are drawn."""

import numpy as np
import pytest

from analysis import metric_against_value
from analysis.figures.value_sweep_plot import split_label


@pytest.fixture
def swept(runs):
    """Late-phase weights from three epochs on, two seeds each, and two entries without an epoch."""
    rows = [
        {"label": f"late, T0 = {epoch}", "seed": seed, "accuracy": 80 + epoch / 10 + 2 * seed, "ece": 0.1 - epoch / 1e3}
        for epoch in (40, 0, 80)
        for seed in (0, 1)
    ]
    rows += [{"label": "Base (SGD)", "method": "sgd", "seed": seed, "accuracy": 81.0 + seed} for seed in (0, 1)]
    rows += [{"label": "swa", "accuracy": 82.0, "ece": 0.02}]
    return runs(*rows)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def points(ax):
    """The lines with error bars: what their points and bars are."""
    found = []
    for bars in ax.containers:
        ends = [segment[:, 1] for segment in bars[2][0].get_segments() if len(segment)] if bars[2] else []
        found.append((bars[0].get_xydata().tolist(), [(high - low) / 2 for low, high in ends]))
    return found


def levels(ax):
    """The horizontal lines: style → height."""
    return {line.get_linestyle(): line.get_ydata()[0] for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]}


@pytest.mark.parametrize(
    ("label", "x", "value", "rest"),
    [
        ("line, β = 1", "β", 1.0, "line"),
        ("β=1: line", "β", 1.0, "line"),
        ("line: β = 1e-3, layerwise", "β", 0.001, "line, layerwise"),
        ("line(β=0.5, K=2)", "β", 0.5, "line(K=2)"),
        ("line(K=2, β=0.5)", "β", 0.5, "line(K=2)"),
        ("swa(line(β=.5), K=2)", "β", 0.5, "swa(line, K=2)"),
        ("cifar10 label_noise=0.2 cutout=16", "label_noise", 0.2, "cifar10 cutout=16"),
        ("T0 = 120", "T0", 120.0, "T0"),
        ("late, T0 = -1.5", "T0", -1.5, "late"),
        ("late, ST0 = 1", "T0", None, "late, ST0 = 1"),
        ("late, T0 = never", "T0", None, "late, T0 = never"),
        ("late, T0 = 5x", "T0", None, "late, T0 = 5x"),
        ("cifar10 label_noise=0.2", "noise", None, "cifar10 label_noise=0.2"),
    ],
)
def test_a_label_is_parted_into_the_value_and_the_rest(label, x, value, rest):
    assert split_label(label, x) == (value, rest)


def test_values_are_points_and_entries_without_one_are_horizontal(swept):
    figure = metric_against_value(swept, x="T0", metrics=["accuracy", "ece"], xlabel="T0 (epochs)")
    top, bottom = figure.axes
    assert points(top) == [([[0, 81], [40, 85], [80, 89]], pytest.approx([2**0.5] * 3))], "sorted by T0"
    assert levels(top) == {":": 81.5, "-.": 82.0}, "plain training dotted, others dash-dotted"
    assert levels(bottom) == {"-.": 0.02}, "plain training has no ECE here"
    assert [ax.get_ylabel() for ax in figure.axes] == ["Accuracy (%)", "ECE"]
    assert top.get_xlabel() == "T0 (epochs)" and top.get_title() == "cifar10 · resnet20"
    assert list(top.get_xticks()) == [0, 40, 80]
    assert legend(figure) == ["Base (SGD)", "late", "swa"]
    band = next(patch for patch in top.patches).get_extents().transformed(top.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((81.5 - 0.5**0.5, 81.5 + 0.5**0.5)), "of plain training's two seeds"


def test_the_value_of_a_dataset(runs):
    rows = [
        {"label": label, "dataset": dataset, "accuracy": accuracy}
        for dataset, accuracy in (
            ("cifar10", 90.0),
            ("cifar10 label_noise=0.2", 80.0),
            ("cifar10 label_noise=0.4", 70.0),
        )
        for label in ("sgd", "swa")
    ]
    figure = metric_against_value(runs(*rows), x="label_noise")
    assert [ax.get_title() for ax in figure.axes] == ["cifar10 · resnet20"], "one panel for all of them"
    curve = [[0, 90], [0.2, 80], [0.4, 70]]
    assert points(figure.axes[0]) == [(curve, []), (curve, [])], "a dataset that does not mention noise has none"


def test_panels_are_rows_of_cells_for_two_metrics_and_of_metrics_otherwise(runs):
    rows = [
        {"label": f"line, m = {m}", "architecture": net, "accuracy": 90.0, "nll": 1.0, "ece": 0.1}
        for m in (2, 3)
        for net in ("a", "b")
    ]
    two = metric_against_value(runs(*rows), x="m", metrics=["accuracy", "nll"])
    assert [(ax.get_ylabel(), ax.get_title()[-1]) for ax in two.axes] == [
        ("Accuracy (%)", "a"),
        ("NLL (nats)", "a"),
        ("Accuracy (%)", "b"),
        ("NLL (nats)", "b"),
    ]
    three = metric_against_value(runs(*rows), x="m", metrics=["accuracy", "nll", "ece"])
    assert [ax.get_title()[-1] for ax in three.axes] == ["a", "b"] * 3


def test_what_was_chosen_on_test_data_is_shown_only_if_asked_for_and_with_a_mark(swept):
    swept["chosen_on"] = ["test" if label == "late, T0 = 80" else "" for label in swept["label"]]
    assert points(metric_against_value(swept, x="T0").axes[0])[0][0] == [[0, 81], [40, 85]]
    figure = metric_against_value(swept, x="T0", chosen_on_test=True)
    assert legend(figure) == ["Base (SGD)", "late", "late (chosen on test)", "swa"]
    assert [curve for curve, _ in points(figure.axes[0])] == [[[0, 81], [40, 85]], [[80, 89]]]


def test_the_best_of_several_by_each_metric_and_at_each_value(runs):
    accuracies = {
        ("", 0.1): [90, 92],
        ("", 0.4): [80, 99],
        (" label_noise=0.5", 0.1): [60],
        (" label_noise=0.5", 0.4): [70],
    }
    rows = [
        {"label": f"dropout p = {p}", "dataset": f"cifar10{noise}", "seed": seed, "accuracy": value, "ece": p}
        for (noise, p), values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    options = {"x": "label_noise", "metrics": ["accuracy", "ece"], "best_of": {"Dropout": "dropout p = "}}
    figure = metric_against_value(runs(*rows), **options)
    assert legend(figure) == ["Dropout (best of 2, chosen on test)"]
    best = [curve for ax in figure.axes for curve, _ in points(ax)]
    assert best == [[[0, 91], [0.5, 70]], [[0, 0.1], [0.5, 0.1]]], "91 is the best mean, though one seed has 99"
    with pytest.raises(ValueError, match=r"best_of needs a metric with a better direction; members has none"):
        metric_against_value(runs(*[row | {"members": 1.0} for row in rows]), **options | {"metrics": ["members"]})
    with pytest.raises(LookupError, match=r"no entry's label begins with 'smoothing'; there are: dropout p = 0\.1, "):
        metric_against_value(runs(*rows), x="label_noise", best_of={"LS": "smoothing"})


def test_the_axis_names_the_values_that_have_room(runs):
    rows = runs(*[{"label": f"k = {k}", "accuracy": 90.0} for k in (0, 1, 2, 100)])
    assert list(metric_against_value(rows, x="k").axes[0].get_xticks()) == [0, 100]
    figure = metric_against_value(rows, x="k", xscale="symlog")
    assert list(figure.axes[0].get_xticks()) == [0, 1, 2, 100]
    assert figure.axes[0].get_xscale() == "symlog" and legend(figure) == ["k"]
    with pytest.raises(ValueError, match="xscale: log cannot show 0; use symlog"):
        metric_against_value(rows, x="k", xscale="log")


def test_plain_training_is_black_whatever_it_is_called(swept):
    figure = metric_against_value(swept, x="T0")
    dotted = next(line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":")
    np.testing.assert_array_equal(dotted.get_color(), (0, 0, 0))


def test_what_cannot_be_drawn_is_said(swept, runs):
    with pytest.raises(LookupError, match=r"no label or dataset has a value as in 'K = 1'; there are: Base \(SGD\), "):
        metric_against_value(swept, x="K")
    with pytest.raises(LookupError, match="no run has 'acuracy'; there is: accuracy, ece"):
        metric_against_value(swept, x="T0", metrics=["acuracy"])
    with pytest.raises(ValueError, match="unknown xscale 'cubic'; known are: linear, log, symlog"):
        metric_against_value(swept, x="T0", xscale="cubic")
    with pytest.raises(ValueError, match=r"metrics is a list of names, as in \[accuracy, nll\]; got 'nll'"):
        metric_against_value(swept, x="T0", metrics="nll")
    twins = runs({"label": "line, m = 2", "accuracy": 1.0}, {"label": "line: m=2", "accuracy": 2.0})
    with pytest.raises(ValueError, match="line, m = 2 and line: m=2 would both be 'line' at m = 2: label them diff"):
        metric_against_value(twins, x="m")


def test_a_line_breaks_at_a_value_of_which_no_run_is_finished(swept):
    cell = {"dataset": "cifar10", "architecture": "resnet20", "state": "diverged"}
    labels = ["late, T0 = 60", "late, T0 = 60", "late, T0 = 40", "swa", "other, T0 = 70"]
    swept.attrs["unfinished"] = [cell | {"label": label} for label in labels] + [{"state": "missing", "key": "k"}]
    (ax,) = metric_against_value(swept, x="T0").axes
    ((late, _),) = points(ax)
    assert [x for x, _ in late] == [0.0, 40.0, 60.0, 80.0], "40 has finished runs, the others are of no line"
    assert [np.isnan(y) for _, y in late] == [False, False, True, False]


def test_a_line_breaks_at_a_dataset_of_which_no_run_is_finished(runs):
    frame = runs(*({"label": "a", "dataset": f"cifar10 label_noise={x}", "accuracy": 9.0} for x in (0.1, 0.3)))
    cell = {"dataset": "cifar10 label_noise=0.2", "architecture": "resnet20", "label": "a", "state": "failed"}
    frame.attrs["unfinished"] = [cell]
    (ax,) = metric_against_value(frame, x="label_noise").axes
    assert np.isnan([y for line in ax.get_lines() for y in line.get_ydata()]).sum() == 1
