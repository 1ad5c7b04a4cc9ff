"""LaTeX tables of budgets and of average ranks."""

import shutil
import subprocess

import pytest

from analysis import document, latex_budgets, latex_comparisons, latex_ranks, leaderboard
from tests.analysis.tables.conftest import HARD


def test_latex_ranks(many):
    text = latex_ranks(many, label="tab:mine")
    assert r"deep\_ensemble(late\_phase\_bn(K=5), K=3) & 1." in text and r"\label{tab:mine}" in text
    assert r"p \textless{} 0.001" in text and r"$\chi^2$ = " in text and "partly (6)" in text
    assert r"\caption{Mine.}" in latex_ranks(leaderboard(many), caption="Mine.")
    with pytest.raises(LookupError, match="at least 6 cells"):
        latex_ranks(many[many["dataset"] == "data_1"])


def test_latex_budgets(many):
    one = many[many["dataset"] == "data_1"]
    text = latex_budgets(one, budgets=[1.1])
    row = leaderboard(one).query("train_cost_mean < 1.1").iloc[0]
    figure = rf"${row['accuracy_mean']:.2f} \pm {row['accuracy_std']:.2f}$"
    cost = f"${row['train_cost_mean']:.2f}$ & $1.00$"
    assert rf"train $\leq 1.1\times$ & {row['label']} & {figure} & {cost} \\" in text
    assert r"\multicolumn{5}{l}{\emph{data\_1 $\cdot$ resnet20}} \\" in text
    assert text == latex_budgets(leaderboard(one), budgets=[1.1])


def test_latex_of_one_seed_has_no_spread(many):
    assert r" \pm \mathrm{n/a}$" in latex_budgets(many[many["seed"] == 0])


def test_latex_has_the_tables_that_stand_below_a_board(many):
    board = leaderboard(many)
    assert latex_comparisons(board) == [latex_budgets(board), latex_ranks(board)]
    mine = [latex_budgets(board, label="tab:mine-budgets"), latex_ranks(board, label="tab:mine-ranks")]
    assert latex_comparisons(board, label="tab:mine") == mine
    few = leaderboard(many[many["dataset"] == "data_1"])
    assert latex_comparisons(few) == [latex_budgets(few)], "too few cells for ranks"
    diverse = leaderboard(many.assign(temperature=1.0), "temperature")
    assert latex_comparisons(diverse) == [], "neither direction is better"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(many, tmp_path):
    hard = many.assign(label=many["label"].replace("swa", "γθ × 5 %_&"), dataset=many["dataset"] + HARD)
    text = document(latex_ranks(many), latex_ranks(hard, label="tab:b"), latex_budgets(hard, label="tab:c"))
    (tmp_path / "tables.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "too large" not in done.stdout
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000
