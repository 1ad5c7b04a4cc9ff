"""LaTeX tables: a golden one, what is bold, what is escaped, and that it compiles."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from analysis import document, label_of, latex, leaderboard
from analysis.tables.latex_document import escape_latex

GOLDEN = Path(__file__).parent / "golden"
HARD = "\\ { } $ & # ^ _ ~ % < > | \" ' ` [x] ε σ0=½ Ω × ± – é ł 日本 \x07"


def test_golden(frame):
    assert latex(frame) == (GOLDEN / "table.tex").read_text(encoding="utf-8")


def test_a_board_gives_the_same_table(frame):
    assert latex(leaderboard(frame)) == latex(frame)


def test_best_is_bold_and_ties_as_written_are_too(runs):
    figures = {"a": (90.0, 0.2), "b": (95.0, 0.1), "c": (95.001, 0.3)}
    text = latex(runs(*({"label": k, "accuracy": a, "nll": n} for k, (a, n) in figures.items())))
    assert text.count(r"$\mathbf{95.00 \pm \mathrm{n/a}}$") == 2
    assert r"$\mathbf{0.100 \pm \mathrm{n/a}}$" in text
    assert text.count(r"\mathbf") == 3


def test_one_entry_is_best_of_nothing(runs):
    text = latex(runs({"label": "a", "accuracy": 90.0}))
    assert r"\mathbf" not in text
    assert "cifar10 $\\cdot$ resnet20, test data: " in text and "$n = 1$ seed." in text


def test_caption_names_entries_with_fewer_seeds(frame):
    text = latex(frame[frame["dataset"] == "digits"])
    assert r"over $n = 2$ seeds (fewer for deep\_ensemble(K=3): 1)" in text


def test_caption_and_label_can_be_given(frame):
    text = latex(frame, ["accuracy"], caption="Mine.", label="tab:mine")
    assert "\\caption{Mine.}\n\\label{tab:mine}\n" in text and "NLL" not in text


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("late-phase/table-2", "tab:late-phase-table-2"),
        ("digits · tuned · rehearsal", "tab:digits-tuned-rehearsal"),
        ("My_study.v2 ", "tab:my-study-v2"),
        ("日本", "tab:日本"),
    ],
)
def test_a_label_is_made_of_a_name(name, label):
    assert label_of(name) == label


def test_the_caption_says_what_is_left_out(runs):
    rows = [{"label": k, "accuracy": 90.0, "chosen_on": on} for k, on in [("a", ""), ("b_1", "test")]]
    assert r"is bold. Chosen on test data: not ranked (1 run: b\_1)." in latex(runs(*rows))
    assert "Chosen" not in latex(runs(rows[0]))


def test_the_caption_says_that_a_rehearsal_is_none(runs):
    frame = runs({"label": "a", "accuracy": 90.0})
    frame.attrs["banner"] = "Rehearsal, not a result: 5 % of it."
    assert r"Rehearsal, not a result: 5 \% of it." in latex(frame)
    assert leaderboard(frame).attrs["notes"][0] == "Rehearsal, not a result: 5 % of it."


def test_escape():
    assert escape_latex("a_b & 50% $x$ #1 {y}") == r"a\_b \& 50\% \$x\$ \#1 \{y\}"
    assert escape_latex("\\^~<>|") == (
        r"\textbackslash{}\textasciicircum{}\textasciitilde{}\textless{}\textgreater{}\textbar{}"
    )
    assert escape_latex("γθ σ0 Ω × é 日 ł") == r"$\gamma$$\theta$ $\sigma$0 $\Omega$ $\times$ é ? ?"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(frame, runs, tmp_path):
    rows = [{"label": HARD + str(i), "dataset": HARD, "accuracy": 90.0 + i, "nll": 0.1} for i in range(2)]
    more = [row | {"dataset": "b"} for row in rows]
    long = runs(*({"label": f"method {i}", "accuracy": 90.0} for i in range(80)))
    text = document(
        latex(frame),
        latex(runs(*rows, *more), label="tab:two"),
        latex(runs(*rows), label="tab:b"),
        latex(long, label="tab:long"),
    )
    (tmp_path / "tables.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout, "no row is cut off at the end of a page"
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_document_may_hold_any_number_of_tables(runs, tmp_path):
    frame = runs(*({"label": f"method {i}", "accuracy": 90.0} for i in range(40)))
    tables = [latex(frame, label=f"tab:{i}") for i in range(100)]
    (tmp_path / "all.tex").write_text(document(*tables), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_an_infinite_mean_is_written_as_such(runs):
    text = latex(runs({"label": "a", "accuracy": 90.0, "nll": np.inf}, {"label": "b", "accuracy": 80.0, "nll": 0.5}))
    assert r"$\infty \pm" in text and "inf " not in text.split(r"\toprule")[1].replace(r"\infty", "")
