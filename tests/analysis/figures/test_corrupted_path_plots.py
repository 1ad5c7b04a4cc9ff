"""Paths under corruptions: all networks on them, and the best one."""

import numpy as np
import pytest
from matplotlib.text import Text

from analysis import best_on_path, load_runs, path_under_corruption

ALPHA = np.array([-0.5, 0.0, 0.5, 1.0])
CLEAN = np.array([10.0, 80.0, 90.0, 50.0])
FOG = {1: np.array([10.0, 70.0, 80.0, 40.0]), 3: np.array([10.0, 60.0, 45.0, 40.0])}
CHANGE = np.array([0.0, -0.25, -0.5, -0.2])  # of FOG[3], relative to CLEAN


@pytest.fixture(scope="module")
def corrupted(store, tmp_path_factory):
    """Two seeds of a line under fog and snow, and of plain training; the second seed is better by a tenth.

    They are in a store of their own: other tests list the studies of the shared one.
    """
    store = type(store)(tmp_path_factory.mktemp("corrupted"))
    for seed, better in enumerate((1.0, 1.1)):
        path = {"alpha": ALPHA, "accuracy": CLEAN * better, "pair_accuracy": CLEAN * better}
        for severity, accuracy in FOG.items():
            for which in ("accuracy", "pair_accuracy"):
                path |= {f"fog_{severity}_{which}": accuracy * better, f"snow_{severity}_{which}": CLEAN / 2}
        files = {"arrays": {f"path/{name}": array for name, array in path.items()}}
        store.add("corrupted", "line", seed, metrics={"accuracy": 90.0}, files=files, arrays="path")
        metrics = {"accuracy": 80.0, "generated/relative_change/fog": -0.25 - 0.1 * seed}
        store.add("corrupted", "sgd", seed, metrics=metrics)
    return load_runs("corrupted", store=store.uri)


def blocks(figure):
    """Title of a row → its panels."""
    return {block.get_suptitle(): block.axes for block in figure.subfigs}


def test_paths_under_corruptions(corrupted):
    figure = path_under_corruption(corrupted)
    ((clean, fog, snow, difference),) = blocks(figure).values()
    assert list(blocks(figure)) == ["line · cifar10 · resnet20"]
    assert [ax.get_title() for ax in (clean, fog, snow, difference)] == ["clean", "fog", "snow", "α = 0 against 1"]
    lines = [line.get_ydata() for line in fog.get_lines() if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(lines, [1.05 * FOG[severity] for severity in (1, 1, 3, 3)])
    assert [line.get_linestyle() for line in fog.get_lines()[:1]] == ["--"]
    dotted = [
        [line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"] for ax in (clean, fog, snow)
    ]
    assert dotted[0] == [80.0] and dotted[2] == [], "plain training was not measured under snow"
    assert dotted[1] == [pytest.approx(80 * (1 - 0.30))], "at severity 3, over both seeds"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:5] == ["severity 1", "severity 3", "P(α)", "P(α), P(1 − α)", "plain training"]


def test_the_relative_difference_of_two_networks_on_the_path(corrupted):
    ((*_, ax),) = blocks(path_under_corruption(corrupted, corruptions=["fog"], between=[0.5, 0])).values()
    curve = next(line for line in ax.get_lines() if len(line.get_xdata()) == 3)
    expected = [100 * (90 / 80 - 1), 100 * (80 / 70 - 1), 100 * (45 / 60 - 1)]
    np.testing.assert_allclose(curve.get_xydata(), np.transpose([[0, 1, 3], expected]))
    with pytest.raises(LookupError, match=r"no path was measured at α = 0.25, but at -0.5, 0, 0.5, 1"):
        path_under_corruption(corrupted, between=[0, 0.25])
    with pytest.raises(ValueError, match="between must be two positions"):
        path_under_corruption(corrupted, between=[0])


def test_the_best_network_on_the_path_against_plain_training(corrupted):
    figure = best_on_path(corrupted)
    (ax,) = figure.axes
    best = CHANGE[1:].max()  # α = −0.5 would lose nothing, but lies beyond the path's end
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(np.mean([best + 0.25, best + 0.35]))]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["fog"], "plain training was not measured under snow"
    said = {text.get_text().replace("\n", " ") for text in figure.findobj(Text)}
    assert any("generated corruptions" in text and "best α on the path, chosen on test data" in text for text in said)


def test_nothing_is_cut_off_even_below_a_banner(corrupted):
    corrupted = corrupted.copy()
    corrupted.attrs["banner"] = "Rehearsal: 2 of 200 epochs on 500 images"
    for plot in (best_on_path, path_under_corruption):
        figure = plot(corrupted)
        assert figure.get_suptitle().replace("\n", " ") == corrupted.attrs["banner"]
        figure.draw_without_rendering()
        page, box = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1


def test_what_was_not_measured_is_said(corrupted, frame):
    with pytest.raises(LookupError, match=r"no path was measured under corruptions; add `evaluate: {p"):
        path_under_corruption(frame)
    with pytest.raises(LookupError, match="no path was measured under rain of severity 1; there is: fog 1, "):
        path_under_corruption(corrupted, corruptions=["rain"])
    with pytest.raises(LookupError, match="no path was measured under fog of severity 5"):
        path_under_corruption(corrupted, severities=[5])
    with pytest.raises(LookupError, match="no run has relative changes of its accuracy"):
        best_on_path(frame)
    with pytest.raises(LookupError, match="plain training was not measured under snow"):
        best_on_path(corrupted, corruptions=["snow"])
    with pytest.raises(LookupError, match="no path was measured under fog, snow at severities"):
        path_under_corruption(corrupted, metric="nll")


def test_a_network_that_is_never_right_has_no_relative_change(corrupted, monkeypatch):
    path = {
        "alpha": ALPHA,
        "accuracy": np.array([1.0, 0.0, 50.0, 0.0]),
        "fog_3_accuracy": np.array([1.0, 0.0, 40.0, 0.0]),
    }
    monkeypatch.setattr(
        "analysis.figures.corrupted_path_plots.load_arrays", lambda runs, name: dict.fromkeys(runs["run_id"], path)
    )
    (ax,) = best_on_path(corrupted).axes
    assert [bar.get_width() for bar in ax.patches] == [pytest.approx(-0.2 + 0.30)]
