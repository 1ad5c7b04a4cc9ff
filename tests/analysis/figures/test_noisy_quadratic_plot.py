"""The figure of the noisy quadratic problem shows the tracked losses, and nothing overlaps."""

import numpy as np
import pytest

from analysis import load_settings, loss_against_members, save

K = np.arange(1, 6)
LOSSES = {(0.1, 1e3): 1e-3, (0.1, 1e8): 1e-8, (0.5, 100.0): 1e-2}  # by (η, B): of one member
SLOPES = {"late_phase": -0.75, "full_multiplicative": -0.9, "full": -1.0}
THEORY = ("full_closed_form", "late_phase_prediction", "late_phase_prediction_2e7")


def add_setting(store, study, eta, B, loss, leave_out=()):
    series = {}
    for name, slope in SLOPES.items():
        series |= {f"members/{name}": loss * K**slope, f"members/{name}_se": 0.1 * loss * K**slope}
    series |= {f"members/{name}": loss / K for name in THEORY}
    metrics = {f"slope/{name}": slope for name, slope in SLOPES.items()}
    metrics |= {f"slope/{name}_se": 0.012 for name in SLOPES}
    series = {name: list(values) for name, values in series.items() if name not in leave_out}
    label = f"η = {eta:g}, B = {B:g}"
    run_id, _ = store.add(study, label, 0, metrics=metrics, series=series)
    for name, value in (("eta", eta), ("B", B)):
        store.client.log_param(run_id, name, value)
    return run_id


@pytest.fixture(scope="module")
def quadratic_store(store, tmp_path_factory):
    """A store of its own: other tests list the studies of the shared one."""
    return type(store)(tmp_path_factory.mktemp("quadratic"))


@pytest.fixture(scope="module")
def settings(quadratic_store):
    store = quadratic_store
    for (eta, B), loss in LOSSES.items():
        add_setting(store, "quadratic", eta, B, loss)
    store.add("quadratic", "η = 2, B = 1", 0, state="diverged")
    return load_settings("quadratic", store=store.uri)


def test_settings_come_by_their_noise(settings):
    assert list(zip(settings["eta"], settings["B"], strict=True)) == [(0.1, 1e8), (0.1, 1e3), (0.5, 100.0)]
    assert set(settings["slope/late_phase"]) == {-0.75}
    assert not [column for column in settings if column.startswith("members/")]
    assert [run["state"] for run in settings.attrs["unfinished"]] == ["diverged"]


def test_a_rehearsal_says_so(quadratic_store):
    store = quadratic_store
    run_id = add_setting(store, "small", 0.1, 1e3, 1e-3)
    store.client.set_tag(run_id, "banner", "Rehearsal, not a result: 10 dimensions.")
    frame = load_settings("small", store=store.uri)
    assert frame.attrs["banner"] == "Rehearsal, not a result: 10 dimensions."
    assert "10 dimensions" in loss_against_members(frame).get_suptitle()


def test_only_the_settings_asked_for(settings, quadratic_store):
    store = quadratic_store
    key = settings["key"][1]
    found = load_settings("quadratic", store=store.uri, keys=[key, "f" * 64])
    assert list(found["key"]) == [key]
    assert found.attrs["unfinished"] == [{"state": "missing", "key": "f" * 64}]
    with pytest.raises(LookupError, match="no study 'nothing'"):
        load_settings("nothing", store=store.uri)


def test_the_figure_shows_the_losses(settings):
    figure = loss_against_members(settings)
    assert len(figure.axes) == 3
    for ax, loss in zip(figure.axes, (1e-8, 1e-3, 1e-2), strict=True):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        drawn = {bars[0].get_color(): bars for bars in ax.containers}
        assert len(drawn) == len(SLOPES), "a colour each"
        for bars, slope in zip(ax.containers, (-1.0, -0.9, -0.75), strict=True):
            np.testing.assert_allclose(bars[0].get_xydata(), np.column_stack([K, loss * K**slope]))
            low_high = np.array([segment[:, 1] for segment in bars[2][0].get_segments()])
            np.testing.assert_allclose(low_high, (loss * K**slope)[:, None] * [0.9, 1.1])
        lines = [line for line in ax.lines if line.get_linestyle() in ("-", "--", ":")]
        assert len(lines) == len(THEORY)
        for line in lines:
            np.testing.assert_allclose(line.get_ydata(), loss / K)
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert texts[0] == ["slope", "−0.750 ± 0.012", "−0.900 ± 0.012", "−1.000 ± 0.012"]
    assert texts[1] == ["slopes", "−0.75", "−0.90", "−1.00"]
    assert [ax.get_title() for ax in figure.axes] == ["η = 0.1, B = $10^{8}$", "η = 0.1, B = 1000", "η = 0.5, B = 100"]


@pytest.mark.parametrize("banner", [None, "Rehearsal: 400 iterations of 40,000, so that these slopes mean nothing"])
def test_nothing_is_cut_off_or_overlaps(settings, tmp_path, banner):
    settings = settings.copy()
    settings.attrs |= {"banner": banner, "unfinished": []}
    figure = loss_against_members(settings)
    assert figure.get_suptitle().replace("\n", " ") == (banner or "")
    figure.draw_without_rendering()
    page, box = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1 and box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [figure.legends[0].get_window_extent()]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = one.x0 >= other.x1 - 1 or other.x0 >= one.x1 - 1 or one.y0 >= other.y1 - 1 or other.y0 >= one.y1 - 1
            assert apart
    for ax in figure.axes:
        written = [text.get_window_extent() for text in (*ax.texts, ax.title)]
        for i, one in enumerate(written):
            assert not any(one.overlaps(other) for other in written[:i])
    assert [file.suffix for file in save(figure, tmp_path / "f")] == [".pdf", ".svg", ".png"]


def test_a_single_setting_is_one_panel(settings):
    assert len(loss_against_members(settings.iloc[:1]).axes) == 1


def test_a_curve_that_is_not_there(quadratic_store):
    store = quadratic_store
    add_setting(store, "partial", 0.1, 10.0, 1.0, leave_out=["members/full"])
    with pytest.raises(LookupError, match="full of η = 0.1, B = 10 is not tracked"):
        loss_against_members(load_settings("partial", store=store.uri))
