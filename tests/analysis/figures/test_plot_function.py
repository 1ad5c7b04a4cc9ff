"""What holds for every figure: a banner that cannot be missed, and options that are refused by name."""

import pandas as pd
import pytest
from matplotlib.text import Text

from analysis import FIGURES, PLOTS, metric_against_value, metric_by_method, save

BANNER = "Rehearsal: 2 of 200 epochs on 500 $ of images, so that these numbers say nothing about the methods"
NEEDED = {"value": {"x": "K"}}


@pytest.fixture
def drawable(frame):
    """Runs of which nearly every figure can be drawn, none of them unfinished."""
    frame = frame.assign(**{"relative_change/fog": -0.1 * frame["members"]})
    frame.attrs["unfinished"] = []
    return frame


def check_banner(figure, before):
    """The banner stands inside the figure and above everything else; panels are as high as without it."""
    for each in (figure, before):
        each.draw_without_rendering()
    text = figure.get_suptitle()
    assert text.replace("\n", " ") == BANNER.replace("$", r"\$")
    box = next(found for found in figure.findobj(Text) if found.get_text() == text).get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    tops = [(ax.get_tightbbox().y1, ax.get_title()) for ax in figure.axes if ax.get_tightbbox()]
    assert all(top <= box.y0 for top, _ in tops), (tops, box)
    heights = [[ax.get_window_extent().height for ax in each.axes] for each in (figure, before)]
    assert heights[0] == pytest.approx(heights[1], rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("name", PLOTS)
def test_a_banner_stands_above_every_plot(name, drawable):
    if name == "ranks":  # which need six cells
        rows = drawable[drawable["dataset"] == "cifar10"]
        copies = [rows.assign(architecture=f"network {i}") for i in range(6)]
        drawable = pd.concat(copies, ignore_index=True)
    before = PLOTS[name](drawable)
    assert before.get_suptitle() == ""
    drawable.attrs["banner"] = BANNER
    check_banner(PLOTS[name](drawable), before)


def test_so_does_how_many_runs_are_not_finished(frame):
    assert {cell["state"] for cell in frame.attrs["unfinished"]} == {"diverged", "failed", "running"}
    said = PLOTS["cost"](frame).get_suptitle()
    assert said.replace("\n", " ") == "Runs not shown: 1 diverged, 1 failed, 1 running."


def test_a_banner_stands_above_the_figures_with_options(drawable, tmp_path):
    options = {"x": "K", "metrics": ["accuracy", "nll"]}
    before = metric_against_value(drawable, **options), metric_by_method(drawable)
    drawable.attrs["banner"] = BANNER
    after = metric_against_value(drawable, **options), metric_by_method(drawable)
    for figure, old in zip(after, before, strict=True):
        check_banner(figure, old)
    assert all(file.stat().st_size for file in save(after[0], tmp_path / "figure"))


@pytest.mark.parametrize("name", FIGURES)
def test_unknown_options_are_refused_with_those_that_there_are(name, drawable):
    with pytest.raises(ValueError, match=r": got an unexpected keyword argument 'colour'; its options are: "):
        FIGURES[name](drawable, colour="red", **NEEDED.get(name, {}))


def test_an_option_that_is_needed(drawable):
    with pytest.raises(
        ValueError, match="metric_against_value: missing a required argument: 'x'; its options are: x, metrics, "
    ):
        metric_against_value(drawable)
