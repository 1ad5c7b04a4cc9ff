"""The figures of docs/speed.md are the measured ones."""

from tests.benchmarks.speed_page import BEGIN, END, PAGE, describe_missed, format_figure, update_page


def test_the_page_has_the_measured_figures():
    page = PAGE.read_text()
    assert BEGIN in page
    assert END in page
    assert update_page(page) == page, "python -m tests.benchmarks.speed_page"


def figure(value, kept, bound=1.02, at_least=False):
    quartiles = [value - 0.01, value + 0.01]
    return {"value": value, "quartiles": quartiles, "rounds": 15, "bound": bound, "at_least": at_least, "kept": kept}


def test_a_missed_bound_is_marked():
    good, bad, free = figure(1.0, True), figure(1.1, False), figure(4.2, None, bound=None)
    assert format_figure(good) == ["1.000", "0.990 to 1.010 of 15", "≤ 1.02"]
    assert format_figure(bad) == ["1.100", "1.090 to 1.110 of 15", "≤ 1.02 **missed**"]
    assert format_figure(figure(2.0, True, 1.6, at_least=True))[2] == "≥ 1.60"
    assert format_figure(free)[2] == ""
    assert describe_missed({"a": good, "b": free}) == "All of the 1 bounds held in these measurements."
    said = "**1 of the 2 bounds did not hold in these measurements**: b."
    assert describe_missed({"a": good, "b": bad, "c": free}) == said
