"""The figure of the noisy quadratic problem shows the tracked losses, and nothing overlaps."""

import numpy as np
import pytest

from analysis import load_settings, loss_against_members, save
from tests.analysis.quadratic_settings import SLOPES, THEORY, K, add_setting


def test_a_rehearsal_says_so(quadratic_store):
    store = quadratic_store
    run_id = add_setting(store, "small", 0.1, 1e3, 1e-3)
    store.client.set_tag(run_id, "banner", "Rehearsal, not a result: 10 dimensions.")
    frame = load_settings("small", store=store.uri)
    assert frame.attrs["banner"] == "Rehearsal, not a result: 10 dimensions."
    assert "10 dimensions" in loss_against_members(frame).get_suptitle()


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


@pytest.mark.long
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
