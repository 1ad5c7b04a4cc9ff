"""The report of synthetic runs: what it holds, and where."""

import math
import re
from datetime import UTC, datetime
from html import unescape

import pandas as pd
import pytest

from analysis import Column, Row, Section, Table, Value, beside_paper, compare, load_runs
from analysis.comparisons.leaderboard import leaderboard
from analysis.comparisons.published_comparison import welch_interval
from analysis.figures import PLOTS
from analysis.reports.leaderboard_sections import cost_tables, leaderboard_tables
from analysis.reports.report import draw_plots, plot_caption, report
from analysis.reports.run_sections import describe_code, runs_section, unfinished_sections
from analysis.reports.table_sections import convert_text_table, leading_number
from analysis.tables.text_tables import ColumnHead, TextTable

LATE = "late_phase_bn(K=5) <&_%$|*"


@pytest.fixture(scope="module")
def board(frame):
    return leaderboard(frame)


@pytest.fixture(scope="module")
def written(frame):
    """The report of the study "paper", and what was told meanwhile."""
    told = []
    marked = frame.assign()
    marked.attrs = {**frame.attrs, "description": "What it is", "banner": "Rehearsal: 2 of 200 epochs"}
    extra = [Section("Ours", tables=[Table("t", [Column("x", kind="name")], [Row([Value("mine")])])])]
    text = report(marked, extra=extra, written=datetime(2026, 11, 21, 12, 30, tzinfo=UTC), tell=told.append)
    return unescape(text), told


def texts(table):
    return [[value.text for value in row.values] for row in table.rows]


def test_the_leaderboard_of_each_place_has_every_metric(board):
    first, second = leaderboard_tables(board)
    assert (first.title, second.title) == ("cifar10 · resnet20", "digits · lenet")
    titles = [column.title for column in first.columns]
    assert titles[:7] == ["#", "Method", "n", "Accuracy", "Δ Accuracy [95 %]", "NLL", "Brier"]
    assert {"Backward passes", "Members", "OOD AUROC, svhn"} <= set(titles)
    shown = [column.title for column in first.columns if column.shown]
    assert shown == [*titles[:7], "ECE", "OOD AUROC", "Disagreement", "Train cost", "Predict cost"]
    rows = texts(first)
    assert [row[:4] for row in rows] == [
        ["1", "deep_ensemble(K=3)", "3", "95.20 ± 0.26"],
        ["2", LATE, "3", "94.10 ± 0.10"],
        ["2", "swa", "3", "94.10 ± 0.10"],
        ["4", "sgd", "3", "93.20 ± 0.20"],
    ]
    assert first.rows[0].values[3].sort == pytest.approx(95.2)
    assert rows[0][4].startswith("+2.00 [") and first.rows[0].values[4].sort == pytest.approx(2.0)
    assert rows[3][4] == "", "plain training does not differ from itself"
    assert rows[3][titles.index("Disagreement")] == "", "plain training has none"
    assert texts(second)[0][3] == "98.50 ± n/a"


def test_the_best_of_a_column_are_marked_but_not_of_costs(board):
    table = leaderboard_tables(board)[0]
    best = {
        column.title: [row.values[1].text for row in table.rows if row.values[i].best]
        for i, column in enumerate(table.columns)
    }
    assert best["Accuracy"] == best["NLL"] == ["deep_ensemble(K=3)"]
    assert best["ECE"] == [LATE]
    assert not best["Train cost"] and not best["Training time"] and not best["Disagreement"]


def test_costs(board):
    table = cost_tables(board)[0]
    titles = [column.title for column in table.columns]
    assert titles == ["Method", "Train cost", "Train time", "Predict cost", "Training time", *titles[5:]]
    deep = dict(zip(titles, texts(table)[0], strict=True))
    assert (deep["Train cost"], deep["Forward passes"], deep["Training time"]) == ("3.00", "3,000", "31.0 ± 1.0")


def test_the_report_says_what_the_figures_are(written):
    text, _ = written
    about = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert about["Study"] == "What it is"
    assert about["Figures"] == (
        "Mean ± sample standard deviation (n − 1) over n = 1 to 3 seeds (column n), on test data."
    )
    assert (about["Seeds"], about["Ranked by"]) == ("0, 1, 2", "Accuracy")
    assert about["Written"] == "2026-11-21 12:30 UTC"
    assert '<p class="banner" role="note">Rehearsal: 2 of 200 epochs</p>' in text
    first = text.index("Read this first")
    assert first < text.index("<dl>") < text.index("Leaderboards</h2>")
    assert first < text.index("Not shown, failed: 1 run (fge(K=5) · resnet20 · cifar10 · seed 0:") < text.index("<dl>")
    assert first < text.index("swa (cifar10 · resnet20): OOD AUROC from 2 of 3 seeds.") < text.index("<dl>")


def test_the_report_has_all_plots_the_runs_allow(written):
    text, told = written
    headings = re.findall(r"<figure>\s*<h3>(.*?)</h3>", text)
    assert headings == [name.capitalize() for name in PLOTS if name not in ("ranks", "corruption")]
    assert "No plot ranks: ranks need at least 6 cells" in text
    assert "No plot corruption: no run has relative changes of its accuracy under corruptions" in text
    assert text.count('role="img"') == len(headings)
    assert (
        "Cost: Accuracy over training cost, one panel per dataset and architecture, with the Pareto front</title>"
        in text
    )
    assert "drawing cost" in told and "writing Cost" in told


def test_sections_of_others_stand_before_the_plots(written):
    text, _ = written
    names = re.findall(r'<h2 id="section-\d+">(.*?)</h2>', text)
    assert names == ["Leaderboards", "Budgets and average ranks", "Costs", "Ours", "Plots", "Unfinished runs", "Runs"]
    assert "mine" in text


def test_tables_written_elsewhere_become_tables_of_the_report():
    heads = [ColumnHead("budget", left=True), ColumnHead("best method", left=True), ColumnHead("NLL, OOD", "%", "↑")]
    table = convert_text_table(
        TextTable("Best", heads, [["1×", "swa", "95.20 ± 0.26"], ["", "late", "–"]], note="A note.")
    )
    assert [(c.title, c.kind, c.better) for c in table.columns] == [
        ("Budget", "name", None),
        ("Best method", "text", None),
        ("NLL, OOD", "number", "higher"),
    ]
    assert texts(table) == [["1×", "swa", "95.20 ± 0.26"], ["1×", "late", "–"]]
    assert [row.values[2].sort for row in table.rows] == [
        95.2,
        pytest.approx(float("nan"), nan_ok=True),
    ] and table.notes == ["A note."]
    assert not table.sortable, "sorting would tear the lines of 1× apart"
    assert convert_text_table(TextTable("Best", heads, [["1×", "swa", "95"], ["2×", "late", "–"]])).sortable


@pytest.mark.parametrize(
    ("text", "value"), [("−1,234.5 [n/a]", -1234.5), ("+0.31", 0.31), ("n/a", math.nan), ("", math.nan)]
)
def test_cells_are_sorted_by_their_number(text, value):
    assert leading_number(text) == pytest.approx(value, nan_ok=True)


@pytest.mark.long
def test_a_papers_values_stand_in_the_report(frame):
    paper = pd.DataFrame(
        [
            {"row": "SWA", "column": "acc", "dataset": "cifar10", "architecture": "resnet20", "label": "swa"}
            | {
                "metric": "accuracy",
                "times": 1.0,
                "paper_mean": 94.0,
                "paper_std": 0.1,
                "paper_n": 5,
                "decimals": 2,
                "stated": "94.00 ± 0.10",
            }
            | {"stated": "94.00 ± 0.10", "note": "likely 49"}
        ]
    )
    paper.attrs = {"source": "Nobody 2021, Table 1", "seeds": 5, "remark": ""}
    text = report(frame, extra=[beside_paper(compare(paper, frame))])
    assert "Nobody 2021, Table 1" in text and "94.00 ± 0.10 [a]" in text and "[a] likely 49" in text
    low, high = (f"{bound:+.2f}".replace("-", "−") for bound in welch_interval(94.1, 0.1, 3, 94.0, 0.1, 5))
    assert f"+0.10 [{low}, {high}]" in text


def test_plots_go_by_the_metric_that_ranks(frame):
    for by, label in (("nll", "NLL (nats)"), (None, "Accuracy (%)")):
        drawings, *_ = draw_plots(frame, lambda line: None, by)
        assert {drawing.title: drawing.figure.axes[0].get_ylabel() for drawing in drawings}["Cost"] == label


def test_a_study_name_may_hold_markup(other_store):
    name = "<script>alert(1)</script> & '\"🙂"
    other_store.add(name, name, 0, metrics={"accuracy": 90.0}, dataset=name, architecture=name, commit=name)
    other_store.add(name, name, 1, state="failed", reason=f"Traceback\n{name}", dataset=name)
    frame = load_runs(name, store=other_store.uri)
    frame.attrs["banner"] = name
    text = report(frame)
    assert text.count("<script>") == 1
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 15


def test_unfinished_runs_are_named_with_their_reasons(frame):
    (section,) = unfinished_sections(frame)
    assert texts(section.tables[0]) == [
        ["fge(K=5)", "cifar10 · resnet20", "1", "diverged", ""],
        ["fge(K=5)", "cifar10 · resnet20", "0", "failed", "RuntimeError: CUDA out of memory"],
        ["fge(K=5)", "cifar10 · resnet20", "2", "running", ""],
    ]
    assert section.tables[0].rows[1].values[4].more.startswith("Traceback (most recent call last):")
    whole = frame.assign()
    whole.attrs = {}
    assert unfinished_sections(whole) == []


def test_a_missing_run_without_a_name_is_still_counted(frame):
    lost = frame.assign()
    lost.attrs = {"unfinished": [{"state": "missing", "key": "0" * 64}]}
    (section,) = unfinished_sections(lost)
    assert section.tables[0].title == "1 run was not finished"
    assert texts(section.tables[0]) == [["not tracked", "", "", "missing", ""]]


def made(*rows):
    """What `load_provenance` gives, with what every row needs filled in."""
    moment = pd.Timestamp("2026-11-21 12:00:00", tz="UTC")
    given = {"method": "sgd", "dataset": "cifar10", "architecture": "lenet", "seed": 0, "state": "finished"}
    given |= {"reason": "", "started": moment, "ended": pd.NaT, "link": "", "experiment_id": "1", "run_id": "r"}
    return pd.DataFrame(
        [given | {"label": row.get("method", "sgd"), "key": f"k{i}"} | row for i, row in enumerate(rows)]
    )


def test_what_runs_share_stands_once():
    table = made(
        {"commit": "a", "params/recipe.lr": "0.1", "params/precision": "float32", "params/method.name": "sgd"},
        {"commit": "a", "params/recipe.lr": "0.2", "params/precision": "float32", "params/method.name": "swa"},
        {"commit": "", "params/recipe.lr": "0.3", "params/precision": "", "params/method.name": "", "state": "failed"},
    )
    shared, single = runs_section(table, "sqlite:///runs.db").tables
    assert texts(shared) == [["Commit", "a"], ["precision", "float32"]]
    assert [column.title for column in single.columns][4:6] == ["recipe.lr", "Started"]
    assert [row[4] for row in texts(single)] == ["0.1", "0.2", "0.3"]
    assert texts(single)[0][5:7] == ["2026-11-21 12:00:00", ""]
    assert all(table.folded for table in (shared, single)) and not shared.filtered
    assert single.rows[2].find == "sgd k2 r failed seed 0"


def test_runs_link_to_a_server_or_name_the_command():
    link = "https://host/#/experiments/1/runs/r"
    section = runs_section(made({"link": link}), "https://host")
    assert section.tables[-1].rows[0].values[-1].link == link
    assert section.text.startswith("Each run links to its page in MLflow.")
    section = runs_section(made({}), "sqlite:///runs.db")
    assert section.tables[-1].rows[0].values[-1] == Value("r")
    assert "mlflow ui --backend-store-uri sqlite:///runs.db" in section.text


def test_code_in_doubt_is_a_warning():
    said, warnings = describe_code(made({"commit": "a"}, {"commit": "b-dirty"}, {"commit": "c", "state": "failed"}))
    assert said == {"Commit": "a, b-dirty"}
    assert warnings == [
        "The runs come from 2 different commits: a, b-dirty.",
        "1 run was made with uncommitted changes (“-dirty”).",
    ]
    assert describe_code(made({"commit": "a"}, {"commit": "a"}))[1] == []
    assert describe_code(made({"device": "cpu"}))[0] == {"Device": "cpu"}
    many = describe_code(made(*({"torch": str(i)} for i in range(5))))[0]
    assert many == {"PyTorch": "0, 1, 2 and 2 more"}


def test_a_plot_whose_files_are_gone_is_a_warning(frame, monkeypatch):
    def gone(frame):
        raise FileNotFoundError("no predictions of sgd")

    def inapplicable(frame):
        raise LookupError("nothing to draw")

    def mistaken(frame):
        raise KeyError("column")

    monkeypatch.setattr("analysis.figures.PLOTS", {"one": gone, "two": inapplicable})
    drawings, undrawn, lost = draw_plots(frame, lambda line: None)
    assert drawings == []
    assert undrawn == ["No plot two: nothing to draw"]
    assert lost == ["No plot one, because its data cannot be read: no predictions of sgd"]
    monkeypatch.setattr("analysis.figures.PLOTS", {"three": mistaken})
    with pytest.raises(KeyError, match="column"):
        draw_plots(frame, lambda line: None)


def test_a_caption_is_the_docstring_without_code():
    def plot():
        """Plot a score over `x`.

        One line (`relative`) a method.

        Args:
            None.
        """

    assert plot_caption(plot) == "A score over x. One line a method."
    assert all(len(plot_caption(plot)) > 80 and "`" not in plot_caption(plot) for plot in PLOTS.values())
