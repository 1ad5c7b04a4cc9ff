"""The comparison with a paper's table as text, Markdown, LaTeX and CSV."""

import math
import shutil
import subprocess

import pandas as pd
import pytest

from analysis import compare, document, render_paper
from tests.analysis.published import CELL, ours, stated


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
    assert "Not measured: our runs lack the metric of 2 of 5 values." in lines
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


def test_a_value_chosen_on_test_data_is_marked():
    frame = pd.DataFrame(ours("a", [81.0, 82.0])).assign(chosen_on="test")
    text = render_paper(compare(stated(("A", "acc", "a", "accuracy", 80.0, 0.1, 5)), frame))
    assert "81.50 ± 0.71 [a]" in text and "[a] Our value was chosen on test data." in text


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


def test_a_value_that_lacks_runs_is_marked_and_they_are_named():
    frame = pd.DataFrame(ours("a", [81.0, 82.0]) + ours("b", [80.0, math.nan]))
    lost = CELL | {"label": "a", "seed": "2", "state": "diverged"}
    frame.attrs["unfinished"] = [lost, lost | {"label": "c", "state": "failed", "reason": "no memory"}]
    paper = stated(*((name, "acc", name, "accuracy", 80.0, 0.1, 5) for name in "abc"))
    text = render_paper(compare(paper, frame), "markdown")
    assert r"81.50 ± 0.71 \[a\]" in text and r"- \[a\] Our value is over 2 of 3 runs." in text
    assert r"80.00 \[b\]" in text and r"- \[b\] Our value is over 1 of 2 runs." in text
    assert "Not shown, diverged: 1 run (a · resnet20 · cifar10 · seed 2)." in text
    assert "failed: 1 run (c · resnet20 · cifar10 · seed 2: no memory)." in text and "| missing |" in text


def test_a_paper_of_one_run_has_no_spread():
    paper = stated(("A", "s", "a", "accuracy", 80.0, math.nan, 1))
    paper.attrs["seeds"] = 1
    assert "Paper: Nobody 2021, Table 1; one run." in render_paper(compare(paper, pd.DataFrame(ours("a", [81.0]))))
