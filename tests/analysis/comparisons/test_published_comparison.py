"""A paper's values beside ours: Welch's interval, what is missing, and how the table is written."""

import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from analysis import compare, document, render_paper
from analysis.comparisons.published_comparison import welch_interval
from analysis.tables.text_tables import footnote_letter

CELL = {"dataset": "cifar10", "architecture": "resnet20"}


def stated(*rows):
    """The paper's side: (row, column, label, metric, mean, std, n)."""
    keys = ("row", "column", "label", "metric", "paper_mean", "paper_std", "paper_n")
    usual = {"times": 1.0, "decimals": 2, "note": ""}
    frame = pd.DataFrame([CELL | usual | dict(zip(keys, row[:7], strict=True)) | dict(*row[7:]) for row in rows])
    frame["stated"] = [
        "" if math.isnan(m) else f"{m}" + ("" if math.isnan(s) else f" ± {s}")
        for m, s in zip(frame["paper_mean"], frame["paper_std"], strict=True)
    ]
    frame.attrs = {"source": "Nobody 2021, Table 1", "seeds": 5, "remark": ""}
    return frame


def ours(label, values, metric="accuracy"):
    usual = CELL | {"label": label, "method": label, "evaluated_on": "test", "chosen_on": ""}
    return [usual | {"seed": i, "key": f"{label}{i}", metric: value} for i, value in enumerate(values)]


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("m", [2, 5])
def test_the_interval_is_scipys(n, m):
    rng = np.random.default_rng(n * m)
    a, b = rng.normal(81, 0.3, n), rng.normal(80.5, 0.1, m)
    low, high = welch_interval(a.mean(), a.std(ddof=1), n, b.mean(), b.std(ddof=1), m)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)


@pytest.mark.parametrize(
    "sides", [(81.0, math.nan, 1, 80.0, 0.1, 5), (81.0, 0.1, 3, 80.0, math.nan, 1), (math.nan, math.nan, 0, 80, 0.1, 5)]
)
def test_one_run_has_no_interval(sides):
    assert all(math.isnan(bound) for bound in welch_interval(*sides))


def test_without_any_spread_there_is_no_interval():
    assert all(math.isnan(bound) for bound in welch_interval(81.0, 0.0, 3, 80.0, 0.0, 5))


def test_both_sides_and_their_difference():
    frame = pd.DataFrame(ours("a", [81.0, 81.2, 81.4]))
    paper = stated(("A", "acc", "a", "accuracy", 81.35, 0.16, 5), ("B", "acc", "b", "accuracy", 80.0, 0.1, 5))
    a, b = compare(paper, frame).to_dict("records")
    assert (a["ours_mean"], a["ours_std"], a["ours_n"]) == pytest.approx((81.2, 0.2, 3))
    assert a["difference"] == pytest.approx(-0.15)
    assert (a["low"], a["high"]) == pytest.approx(welch_interval(81.2, 0.2, 3, 81.35, 0.16, 5))
    assert b["ours_n"] == 0 and all(math.isnan(b[name]) for name in ("ours_mean", "difference", "low", "high"))


def test_units_are_the_papers():
    frame = pd.DataFrame(ours("a", [0.98, 0.99], "ood_auroc"))
    (row,) = compare(stated(("A", "OOD", "a", "ood_auroc", 98.0, 0.1, 3, {"times": 100.0})), frame).to_dict("records")
    assert (row["ours_mean"], row["difference"]) == pytest.approx((98.5, 0.5))


def test_a_run_without_the_metric_does_not_count():
    frame = pd.DataFrame(ours("a", [81.0, math.nan, 82.0]))
    (row,) = compare(stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5)), frame).to_dict("records")
    assert (row["ours_n"], row["ours_mean"]) == (2, 81.5)


def table(format="text", **attrs):
    frame = pd.DataFrame(ours("a", [81.0, 81.2, 81.4]) + ours("one", [80.0]))
    frame.attrs = attrs
    paper = stated(
        ("A & <B>", "acc", "a", "accuracy", 81.35, 0.16, 5, {"note": "likely 81.53"}),
        ("A & <B>", "NLL", "a", "nll", math.nan, math.nan, 0),
        ("one", "acc", "one", "accuracy", 80.5, 0.2, 5),
        ("one", "NLL", "one", "nll", 0.7, 0.01, 5),
        ("quoted", "acc", "", "accuracy", 76.15, math.nan, 1, {"note": "likely 81.53"}),
        ("gone", "acc", "gone", "accuracy", 76.15, math.nan, 1),
    )
    return render_paper(compare(paper, frame), format)


def test_the_text_table():
    lines = [line.rstrip() for line in table().splitlines()]
    assert lines[0] == "Nobody 2021, Table 1"
    body = lines[5:14]
    assert [line[:7].strip() for line in body[::3]] == ["A & <B>", "one", "quoted"]
    assert [line[9:19].strip() for line in body] == ["paper", "ours", "difference"] * 3
    assert "81.35 ± 0.16 [a]" in body[0] and body[0].endswith("–")
    assert "81.20 ± 0.20" in body[1] and body[1].endswith("not measured")
    assert "−0.15 [−0.55, +0.25]" in body[2] and body[2].endswith("–")
    assert "80.00" in body[4] and "±" not in body[4] and "−0.50 [n/a]" in body[5]
    assert "76.15 [a]" in body[6] and body[7].split()[-1] == body[8].split()[-1] == "–"
    assert "[a] likely 81.53" in lines
    assert "Missing: 1 of 5 values have no finished run of ours." in lines
    assert "Not measured: 2 of 5 values, of which our runs lack the metric." in lines
    assert any(line.startswith("Ours: mean ± sample standard deviation over 1 to 3 runs") for line in lines)


def test_a_banner_stands_with_the_notes():
    text = table(banner="Rehearsal, not a result.")
    assert "\nRehearsal, not a result.\n" in text
    assert "Rehearsal, not a result." in table("latex", banner="Rehearsal, not a result.")


def test_csv_has_every_figure_apart():
    from io import StringIO

    frame = pd.read_csv(StringIO(table("csv")))
    assert len(frame) == 6 and "banner" not in frame and frame["ours_mean"][0] == pytest.approx(81.2)
    assert {"row", "column", "paper_mean", "paper_std", "ours_n", "low", "high", "note"} <= set(frame)


def test_csv_says_that_a_rehearsal_is_one():
    assert table("csv", banner="Rehearsal.").splitlines()[1].endswith(",Rehearsal.")


def test_what_does_not_belong_beside_a_paper_is_refused():
    paper = stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5))
    with pytest.raises(ValueError, match="these runs were evaluated on validation data"):
        compare(paper, pd.DataFrame(ours("a", [81.0])).assign(evaluated_on="validation"))
    with pytest.raises(ValueError, match="seed 0 more than once"):
        compare(paper, pd.DataFrame(ours("a", [81.0]) * 2))


def test_a_value_chosen_on_test_data_is_marked():
    frame = pd.DataFrame(ours("a", [81.0, 82.0])).assign(chosen_on="test")
    text = render_paper(compare(stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5)), frame))
    assert "81.50 ± 0.71 [a]" in text and "[a] Ours was chosen on test data." in text


def test_markdown_escapes_names():
    text = table("markdown")
    assert "| A &amp; &lt;B&gt; | paper |" in text and "\n| one | paper |" in text


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="format must be text, latex, markdown or csv, not 'html'"):
        table("html")


def test_latex_compiles(tmp_path):
    text = table("latex", banner="50 % of_all & more")
    assert r"A \& \textless{}B\textgreater{} & paper & 81.35 $\pm$ 0.16 [a] & -- \\" in text
    assert text.count("\\addlinespace") == 3
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    (tmp_path / "t.tex").write_text(document(text), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_label_of_latex_is_made_of_the_source_unless_given():
    compared = compare(stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5)), pd.DataFrame(ours("a", [81.0])))
    assert r"\label{tab:nobody-2021-table-1}" in render_paper(compared, "latex")
    assert r"\label{tab:mine}" in render_paper(compared, "latex", label="tab:mine")


def test_marks_go_on_after_z():
    assert [footnote_letter(i) for i in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]


def test_a_value_that_lacks_runs_is_marked_and_they_are_named():
    frame = pd.DataFrame(ours("a", [81.0, 82.0]) + ours("b", [80.0, math.nan]))
    lost = CELL | {"label": "a", "seed": "2", "state": "diverged"}
    frame.attrs["unfinished"] = [lost, lost | {"label": "c", "state": "failed", "reason": "no memory"}]
    paper = stated(*((name, "acc", name, "accuracy", 80.0, 0.1, 5) for name in "abc"))
    text = render_paper(compare(paper, frame), "markdown")
    assert r"81.50 ± 0.71 \[a\]" in text and r"- \[a\] Ours is over 2 of 3 runs." in text
    assert r"80.00 \[b\]" in text and r"- \[b\] Ours is over 1 of 2 runs." in text
    assert "Not shown, diverged: 1 run (a · resnet20 · cifar10 · seed 2)." in text
    assert "failed: 1 run (c · resnet20 · cifar10 · seed 2: no memory)." in text and "| missing |" in text


def test_a_paper_of_one_run_has_no_spread():
    paper = stated(("A", "s", "a", "accuracy", 80.0, math.nan, 1))
    paper.attrs["seeds"] = 1
    assert "Paper: Nobody 2021, Table 1; one run." in render_paper(compare(paper, pd.DataFrame(ours("a", [81.0]))))
