"""Pages of synthetic sections, as they are written."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.figures.style import plot_style
from analysis.reports.inline_svg import inline_svg
from analysis.reports.page_elements import Column, Drawing, Row, Section, Table, Value
from analysis.reports.web_page import write_page

HOSTILE = """</style><script>alert(1)</script>&amp;"'><img src=x onerror=alert(2)>"""
NAMED = [Column("Method", kind="name"), Column("Accuracy", "%", "higher")]


class Reader(HTMLParser):
    """Collects a page's tags, attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def draw(title="a $ and <b>"):
    with plot_style():
        figure = Figure(figsize=(3, 2))
        ax = figure.subplots()
        ax.plot([0, 1, 2], [0.123456789, 0.5, 0.3], "o-", label="one")
        ax.set_title(title.replace("$", r"\$"))
        ax.legend()
    return figure


def page(**changes):
    values = [Value(HOSTILE), Value(HOSTILE, 1.0, more=HOSTILE)]
    table = Table(HOSTILE, NAMED, [Row(values, find=HOSTILE)], place=HOSTILE, notes=[HOSTILE])
    sections = [Section(HOSTILE, HOSTILE, [table], [Drawing(HOSTILE, draw(), HOSTILE)], [HOSTILE])]
    options = {"about": {"What": HOSTILE}, "warnings": [HOSTILE], "banner": HOSTILE} | changes
    return write_page(HOSTILE, sections, **options)


def test_all_text_is_escaped():
    reader = Reader(page())
    assert reader.tags.count("script") == 1, "the page's own"
    assert reader.tags.count("style") == 1
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert sum(HOSTILE in text for text in reader.texts) >= 12
    assert ("data-find", HOSTILE) in reader.attributes


def test_the_policy_lets_only_the_page_s_script_run():
    text = page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_the_page_refers_to_nothing_elsewhere():
    reader = Reader(page())
    links = [value for name, value in reader.attributes if name in ("src", "href", "action", "data")]
    assert links and all(link.startswith("#") for link in links)
    ids = [value for name, value in reader.attributes if name == "id"]
    assert {link[1:] for link in links} <= set(ids)
    assert "@import" not in page() and "http:" not in page() and "https:" not in page()


def test_ids_are_unique_and_every_reference_has_its_target():
    sections = [Section("Plots", drawings=[Drawing(f"figure {i}", draw(), "Same.") for i in range(3)])]
    text = write_page("t", sections)
    ids = re.findall(r'\sid="([^"]+)"', text)
    references = set(re.findall(r"url\(#([^)]+)\)", text)) | set(
        re.findall(r'(?:href|aria-labelledby)="#?([^"]+)"', text)
    )
    assert len(ids) == len(set(ids))
    assert references <= set(ids)
    assert len([name for name in references if name.startswith("figure-2-")]) > 3, "clip paths, glyphs, markers, title"


def test_an_svg_has_a_title_and_no_style_of_its_own():
    text = inline_svg(draw(), "x-", "What <it> shows")
    root = ElementTree.fromstring(text)
    assert (root.attrib["role"], root.attrib["aria-labelledby"]) == ("img", "x-title")
    assert (root[0].tag, root[0].attrib["id"], root[0].text) == ("title", "x-title", "What <it> shows")
    assert "<style" not in text and "<metadata" not in text and "xlink" not in text and "xmlns" not in text
    assert inline_svg(draw(), "x-", "What <it> shows") == text


def test_an_svg_keeps_its_outlines_to_a_hundredth_of_a_point(tmp_path):
    figure = draw()
    with plot_style():
        figure.savefig(tmp_path / "f.svg")
    number = r"-?\d+(?:\.\d+)?"
    outlines = [
        [np.array(re.findall(number, outline), float) for outline in re.findall(r'\sd="([^"]+)"', text)]
        for text in ((tmp_path / "f.svg").read_text(), inline_svg(figure, "x-", "t"))
    ]
    assert len(outlines[0]) == len(outlines[1]) > 20
    for before, after in zip(*outlines, strict=True):
        np.testing.assert_allclose(after, before, atol=0.00501, rtol=0)


def test_values_that_are_not_there_are_sorted_last_and_read_as_a_dash():
    rows = [Row([Value("a"), Value.number(value, "x")]) for value in (1.5, float("nan"))]
    text = write_page("t", [Section("s", tables=[Table("t", NAMED, rows)])])
    assert re.findall(r'<td data-value="([^"]*)">([^<]*)</td>', text) == [("1.5", "x"), ("", "–")]


def test_the_best_are_marked_and_links_lead_on():
    rows = [Row([Value("a"), Value("1", 1.0, best=True)]), Row([Value("b"), Value("2", link="https://host/#/x?a&b")])]
    text = write_page("t", [Section("s", tables=[Table("t", NAMED, rows)])])
    assert "<strong>1</strong>" in text
    assert '<a href="https://host/#/x?a&amp;b" rel="noreferrer">2</a>' in text


def test_many_notes_are_folded():
    text = write_page("t", [], warnings=[f"note {i}" for i in range(12)])
    before, after = text.split("<details><summary>4 more</summary>")
    assert before.count("<li>note") == 8 and after.count("<li>note") == 4
    assert "more</summary>" not in write_page("t", [], warnings=["note"] * 8)


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        (NAMED, ["a"], r"table 't': 1 values for 2 columns"),
        (NAMED[1:], ["a"], "exactly one column must be of kind 'name'"),
        (NAMED[:1] * 2, ["a", "b"], "exactly one column must be of kind 'name'"),
    ],
)
def test_broken_tables_are_refused(columns, values, message):
    with pytest.raises(ValueError, match=message):
        Table("t", columns, [Row([Value(value) for value in values])])


def test_only_web_addresses_may_be_links():
    with pytest.raises(ValueError, match="'javascript:alert\\(1\\)' is no web address"):
        Value("x", link="javascript:alert(1)")


def test_long_names_may_break_where_their_parts_end():
    columns = [*NAMED[:1], Column("Error (of a_b)")]
    rows = [Row([Value("swa(late_phase_bn(K=5, start=0.8), <b>=none)"), Value("1", 1.0)])]
    text = write_page("t", [Section("s", tables=[Table("t", columns, rows)])])
    assert ">Error (of a_<wbr>b)</button>" in text
    assert "swa(<wbr>late_<wbr>phase_<wbr>bn(<wbr>K=5, start=0.8), &lt;b&gt;=none)</th>" in text
