"""All plots: saving, text that is cut off, and runs that were chosen on test data."""

import matplotlib
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.text import Text

from analysis import (
    PLOTS,
    accuracy_against_cost,
    save,
)


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


@pytest.mark.long
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


@pytest.mark.long
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
