"""The figures of docs/speed.md are those that were measured."""

from tests.benchmarks.page import BEGIN, END, PAGE, written


def test_the_page_has_what_was_measured():
    page = PAGE.read_text()
    assert BEGIN in page
    assert END in page
    assert written(page) == page, "python -m tests.benchmarks.page"
