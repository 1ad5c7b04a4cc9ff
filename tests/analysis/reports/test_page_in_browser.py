"""Pages as a browser shows them: sorting, filtering, columns, keyboard, phone, dark, and nothing loaded."""

import os
import shutil

import pytest

from analysis.reports.page_elements import Column, Drawing, Row, Section, Table, Value
from analysis.reports.web_page import write_page
from tests.analysis.reports.test_web_page import HOSTILE, draw

BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs the program chromium")

NAN = float("nan")
COLUMNS = [
    Column("#", sorted="ascending"),
    Column("Method", kind="name"),
    Column("Accuracy", "%", "higher", metric="accuracy"),
    Column("NLL", "nats", "lower", metric="nll"),
    Column("Brier", metric="brier", shown=False),
    Column("Commit", kind="code"),
]
ENTRIES = {  # accuracy, NLL, Brier, commit
    "swa10": (9.5, 0.5, 0.3, "b"),
    "swa9": (10.25, NAN, 0.2, ""),
    "late_phase_bn": (100.0, 0.25, NAN, "a10"),
    HOSTILE: (-1e-3, 3.0, 0.1, "a9"),
}
LONG = "a_very_long_name_without_blanks" * 8
UNREADABLE = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = (a, b) => a.slice(0, 3).map((x, i) => x * (a[3] ?? 1) + b[i] * (1 - (a[3] ?? 1)));
  const light = (color) => {
    const [r, g, b] = color.map((x) => x / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = (element) => {
    if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    const color = channels(getComputedStyle(element).backgroundColor);
    return color[3] === 0 ? below(element.parentElement) : over(color, below(element.parentElement));
  };
  const ratios = [...document.querySelectorAll("body *:not(svg *):not(script):not(option)")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
    .map((element) => {
      const ground = below(element), ink = over(channels(getComputedStyle(element).color), ground);
      const [dark, bright] = [light(ink), light(ground)].sort((x, y) => x - y);
      return [(bright + 0.05) / (dark + 0.05), `${element.tagName} ${element.textContent.slice(0, 30)}`];
    });
  return [ratios.length, ratios.filter(([ratio]) => ratio < 4.5)];
}"""


def make_table(place, name=str, **options):
    rows = [
        Row([Value(str(rank), rank), Value(name(label)), *(Value.number(v, f"{v:g}") for v in numbers), Value(commit)])
        for rank, (label, (*numbers, commit)) in enumerate(ENTRIES.items(), start=1)
    ]
    rows = [Row(row.values, find=f"key-{place}-{i}") for i, row in enumerate(rows)]
    return Table(place, COLUMNS, rows, place, **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page with all there can be on one."""
    wide = Table(LONG, [Column(LONG, kind="name"), *(Column(f"c{i}") for i in range(30))], [], notes=[LONG])
    sections = [
        Section("Boards", LONG, [make_table("one"), make_table("two"), wide]),
        Section("Plots", drawings=[Drawing(f"p{i}", draw(f"{i}"), LONG) for i in (1, 2)], notes=[LONG]),
        Section("Runs", tables=[make_table("one", folded=True), make_table("", folded=True, filtered=False)]),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    warnings = [f"{LONG} {i}" for i in range(10)]
    path.write_text(write_page(HOSTILE, sections, about={"Of": LONG}, warnings=warnings, banner=LONG), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, written):
    """The page, opened from its file; whatever it complains of or asks for fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(written.as_uri())
    yield page
    assert complaints == []
    assert requests == [written.as_uri()]
    context.close()


def names(page, table=0):
    return page.locator("table").nth(table).locator("tbody th").all_text_contents()


def heading(page, name):
    return page.locator("table").first.get_by_role("button", name=name, exact=True)


def test_a_click_sorts_and_another_one_turns_around(page):
    order = ["late_phase_bn", "swa9", "swa10", HOSTILE]
    heading(page, "Accuracy").click()
    assert names(page) == order, "more is better: from high to low, as numbers"
    head = page.locator("table").first.get_by_role("columnheader", name="Accuracy")
    assert head.get_attribute("aria-sort") == "descending"
    heading(page, "Accuracy").click()
    assert names(page) == order[::-1]
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.locator("table").first.locator("[aria-sort]").count() == 1
    assert names(page, 1) == list(ENTRIES), "the other table stays"


def test_the_keyboard_sorts_too_and_what_has_no_value_stays_last(page):
    heading(page, "NLL").focus()
    page.keyboard.press("Enter")
    assert names(page) == ["late_phase_bn", "swa10", HOSTILE, "swa9"], "less is better"
    page.keyboard.press("Space")
    assert names(page) == [HOSTILE, "swa10", "late_phase_bn", "swa9"]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert names(page) == [HOSTILE, "late_phase_bn", "swa10", "swa9"], "the commits, for Brier is hidden"


def test_texts_sort_as_people_count(page):
    heading(page, "Method").click()
    assert [name for name in names(page) if name != HOSTILE] == ["late_phase_bn", "swa9", "swa10"]
    heading(page, "Commit").click()
    assert names(page) == [HOSTILE, "late_phase_bn", "swa10", "swa9"], "a9 a10 b, then none"
    heading(page, "#").click()
    assert names(page) == list(ENTRIES)[::-1]


def test_the_filter_hides_rows_of_all_tables_and_says_how_many_are_left(page):
    status = page.get_by_role("status")
    assert status.inner_text() == "12 of 12 rows"
    page.get_by_label("Filter methods").fill("SWA")
    assert status.inner_text() == "6 of 12 rows"
    shown = page.locator("table").first.locator("tbody tr:visible th").all_text_contents()
    assert shown == ["swa10", "swa9"]
    assert page.locator(".folded .rows").all_inner_texts() == ["2 of 4", "4"], "the last is not filtered"
    page.get_by_label("Filter methods").fill("swa key-two-1")
    assert status.inner_text() == "1 of 12 rows"
    assert page.locator(".none:visible").count() == 1
    page.get_by_label("Filter methods").fill("")
    assert status.inner_text() == "12 of 12 rows"
    assert page.locator(".none:visible").count() == 0


def test_a_place_can_be_chosen(page):
    page.get_by_label("Data and network").select_option("two")
    assert page.get_by_role("status").inner_text() == "4 of 4 rows"
    assert page.locator(".table:visible > h3").all_inner_texts() == ["two", LONG]
    page.get_by_label("Data and network").select_option("")
    assert page.get_by_role("status").inner_text() == "12 of 12 rows"


def test_columns_can_be_chosen(page):
    def shown():
        heads = page.locator("table").first.locator("thead th:visible button").all_inner_texts()
        cells = page.locator("table").nth(1).locator("tbody tr").first.locator("th:visible, td:visible").count()
        assert cells == len(heads), "in all tables, heads and values alike"
        return heads

    assert shown() == ["#", "Method", "Accuracy", "NLL", "Commit"]
    page.get_by_text("Columns", exact=True).click()
    page.get_by_label("Brier").check()
    page.get_by_label("NLL").uncheck()
    assert shown() == ["#", "Method", "Accuracy", "Brier", "Commit"]
    heading(page, "Brier").click()
    assert names(page) == ["swa10", "swa9", HOSTILE, "late_phase_bn"]
    page.get_by_role("button", name="None").click()
    assert shown() == ["#", "Method", "Commit"]
    page.get_by_role("button", name="All", exact=True).click()
    assert shown() == ["#", "Method", "Accuracy", "NLL", "Brier", "Commit"]
    page.get_by_role("button", name="Main ones").click()
    assert shown() == ["#", "Method", "Accuracy", "NLL", "Commit"]


def test_hostile_names_are_text(page):
    assert page.title() == page.locator("h1").inner_text() == HOSTILE
    assert names(page).count(HOSTILE) == 1
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("width", [360, 800])
def test_the_page_never_scrolls_sideways_but_wide_tables_do(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for folded in page.locator("details > summary").all():
        folded.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.querySelectorAll('.wide')].some((e) => e.scrollWidth > e.clientWidth)")
    box = page.locator("svg").first.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(page, scheme):
    page.emulate_media(color_scheme=scheme)
    for folded in page.locator("details > summary").all():
        folded.click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 24)"
    assert dark == (scheme == "dark")
    count, unreadable = page.evaluate(UNREADABLE)
    assert count > 100
    assert unreadable == []
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"


def test_the_keyboard_gets_everywhere_and_is_seen(page):
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the tables"
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    visited = []
    for _ in range(8):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.textContent.slice(0, 20)"))
        outline = page.evaluate(
            "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
        )
        assert outline == ["solid", "2px"], visited
    assert visited[1:6] == ["#", "Method", "Accuracy", "NLL", "Commit"], "the region, then its buttons"


def test_landmarks_and_names(page):
    for role in ("banner", "navigation", "main", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("region", name="one", exact=True).count() == 1
    assert page.get_by_role("img", name=f"p1: {LONG}").count() == 1
    assert page.evaluate("""[...document.querySelectorAll("input, select")].every((e) => e.labels.length === 1)""")
    assert page.get_by_role("columnheader", name="Accuracy % , higher is better").count() == 2


def test_the_page_may_load_nothing_and_run_nothing_else(browser, written):
    page = browser.new_page()
    page.goto(written.as_uri())
    refused = page.evaluate(
        """() => new Promise((done) => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => {
                found.push(event.effectiveDirective);
                if (found.length === 3) done(found.sort());
            });
            const add = (name, values) => document.body.append(Object.assign(document.createElement(name), values));
            add("img", { src: "http://127.0.0.1:1/x.png" });
            add("script", { textContent: "window.ran = true" });
            fetch("http://127.0.0.1:1/").catch(() => null);
        })"""
    )
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert page.evaluate("window.ran") is None
    page.close()


def test_without_scripts_the_tables_are_there_and_no_dead_controls(browser, written):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    assert page.locator("table:visible").count() == 3
    assert page.locator(".controls:visible").count() == 0
    assert page.locator("thead").first.locator("th:visible").count() == 5
    context.close()


def test_print_leaves_out_the_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".controls").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


def test_a_table_whose_rows_belong_together_cannot_be_sorted(browser, tmp_path):
    rows = [Row([Value("a"), Value.number(1.0, "1")])]
    tables = [Table(str(sortable), COLUMNS[1:3], rows, sortable=sortable) for sortable in (True, False)]
    path = tmp_path / "page.html"
    path.write_text(write_page("p", [Section("s", "", tables)]), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert [table.get_by_role("button").count() for table in page.locator("table").all()] == [2, 0]
    heads = [table.locator("thead th").all_text_contents() for table in page.locator("table").all()]
    assert [name.split()[0] for name in heads[1]] == ["Method", "Accuracy%"] and heads[0] == heads[1]
    page.close()
