"""What the plots show, and that they can be saved."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.text import Text

from analysis import (
    PLOTS,
    accuracy_against_cost,
    accuracy_against_predict_cost,
    metric_against_members,
    reliability,
    save,
)
from analysis.figures.reliability_diagram import bin_confidence
from analysis.figures.style import looks


@pytest.fixture(scope="module")
def frame(frame):
    """The runs of the store, measured under two corruptions too."""
    fog = -0.1 * frame["members"] - 0.01 * frame["seed"]
    return frame.assign(**{"relative_change/fog": fog, "relative_change/snow": -0.2})


def plots(frame):
    """Draw every plot, the ranks over copies of one cell."""
    for name, plot in PLOTS.items():
        cell = frame[frame["architecture"] == "resnet20"]
        many = pd.concat([cell.assign(dataset=f"d{i}") for i in range(6)], ignore_index=True)
        yield name, plot(many if name == "ranks" else frame)


@pytest.fixture(scope="module")
def drawn(frame):
    """Every plot, drawn once for the tests that only look at it."""
    return list(plots(frame))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_plot_saves_three_files_and_leaves_nothing_behind(request, tmp_path):
    before = dict(matplotlib.rcParams)
    for name, figure in request.getfixturevalue("drawn"):
        files = save(figure, tmp_path / "new" / f"a.{name}")
        assert [file.name for file in files] == [f"a.{name}.{suffix}" for suffix in ("pdf", "svg", "png")]
        assert files[0].read_bytes()[:5] == b"%PDF-" and files[2].read_bytes()[1:4] == b"PNG"
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_the_same_figure_is_the_same_file(frame, tmp_path):
    first = [file.read_bytes() for file in save(accuracy_against_cost(frame), tmp_path / "one")]
    assert first == [file.read_bytes() for file in save(accuracy_against_cost(frame), tmp_path / "two")]


def test_no_text_is_cut_off_or_overlaps_the_legend(drawn):
    for _, figure in drawn:
        figure.draw_without_rendering()
        page, box = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1
        tops = [legend.get_window_extent().y1 for legend in figure.legends]
        assert all(ax.get_tightbbox().y0 >= top - 1 for ax in figure.axes for top in tops)


def test_what_was_chosen_on_test_data_is_in_no_plot(frame):
    marked = frame.assign(chosen_on=frame["label"].map(lambda label: "test" if label == "deep_ensemble(K=3)" else ""))
    for name, figure in plots(marked):
        drawn = {text.get_text().replace("\n", "") for text in figure.findobj(Text)}
        assert not [text for text in drawn if "deep_ensemble" in text], name
        assert [text for text in drawn if "late_phase" in text], name


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


def test_reliability_plot(frame):
    figure = reliability(frame)
    assert len(figure.axes) == 4  # a diagram a method
    assert legend(figure) == ["cifar10 · resnet20", "digits · lenet"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.0100", "0.0300"]  # ECE, from below


def test_bins():
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [1.0, 0.0], [0.5, 0.5]])
    table = bin_confidence(p, np.array([0, 0, 0, 0, 1]), bins=5)  # edges 0.4, 0.6, 0.8, 1
    expected = {"confidence": [0.55, (0.9 + 0.9 + 1) / 3], "accuracy": [0.5, 2 / 3], "share": [0.4, 0.6]}
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected))


def test_every_method_looks_different():
    found = looks([f"method {i}" for i in range(80)] + ["sgd"])
    assert len({(look.color, look.marker) for look in found.values()}) == 81
    assert found["sgd"].color == (0.0, 0.0, 0.0)


def test_names_are_ordered_as_people_count():
    names = ["T0 = 40", "T0 = 120", "T0 = 1.5", "late", "sgd", "late_2", "7"]
    assert list(looks(names)) == ["sgd", "7", "T0 = 1.5", "T0 = 40", "T0 = 120", "late", "late_2"]
