"""The figures of docs/speed.md are those that were measured."""

from tests.benchmarks.page import BEGIN, END, PAGE, compared, missed, written


def test_the_page_has_what_was_measured():
    page = PAGE.read_text()
    assert BEGIN in page
    assert END in page
    assert written(page) == page, "python -m tests.benchmarks.page"


def figure(value, kept, bound=1.02, least=False):
    quartiles = [value - 0.01, value + 0.01]
    return {"value": value, "quartiles": quartiles, "rounds": 15, "bound": bound, "at_least": least, "kept": kept}


def test_a_bound_that_does_not_hold_is_said():
    good, bad, free = figure(1.0, True), figure(1.1, False), figure(4.2, None, bound=None)
    assert compared(good) == ["1.000", "0.990 to 1.010 of 15", "≤ 1.02"]
    assert compared(bad) == ["1.100", "1.090 to 1.110 of 15", "≤ 1.02 **missed**"]
    assert compared(figure(2.0, True, 1.6, least=True))[2] == "≥ 1.60"
    assert compared(free)[2] == ""
    assert missed({"a": good, "b": free}) == "All of the 1 bounds held in these measurements."
    said = "**1 of the 2 bounds did not hold in these measurements**: b."
    assert missed({"a": good, "b": bad, "c": free}) == said
