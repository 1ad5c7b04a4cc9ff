"""What stands below the boards, in text, Markdown and LaTeX."""

import shutil
import subprocess

import numpy as np
import pytest
from rich.cells import cell_len

from analysis import document, latex_budgets, latex_comparisons, latex_ranks, leaderboard, render
from analysis.tables.budgets_and_ranks import budget_and_rank_tables

HARD = r"\{}$&#^_~%<>|\"'`[x] ε"


@pytest.fixture
def many(runs):
    """Seven datasets and five methods with one awkward name, of three seeds."""
    random = np.random.default_rng(0)
    names = {"sgd": 1.0, "swa": 1.004, "deep_ensemble(late_phase_bn(K=5), K=3)": 3.0, HARD: 2.0, "partly": 1.0}
    return runs(
        *(
            {"dataset": f"data_{i}", "label": name, "seed": seed, "accuracy": 90 + 2 * cost + random.normal()}
            | {"cost/forward_examples": cost, "cost/backward_examples": cost, "cost/forwards_per_example": round(cost)}
            for i in range(7)
            for name, cost in names.items()
            for seed in range(3)
            if not (name == "partly" and i == 0)
        )
    )


def test_tables_below_the_boards(many):
    *budgets, ranks = budget_and_rank_tables(leaderboard(many))
    assert [table.title for table in budgets] == [
        f"Best within a budget (of so many entries) · data_{i} · resnet20" for i in range(7)
    ]
    assert [row[0] for row in budgets[0].rows] == [
        *("train ≤ 1×", "train ≤ 1.1×", "train ≤ 4×"),
        *("predict ≤ 1×", "predict ≤ 1.1×", "predict ≤ 4×"),
    ]
    budget, label, _, *costs, entries = budgets[0].rows[2]
    assert (budget, label) == ("train ≤ 4×", "deep_ensemble(late_phase_bn(K=5), K=3)")
    assert (costs, entries) == (["3.00", "3.00"], "4")
    assert ranks.title == "Average ranks over 7 cells"
    assert ranks.rows[0][0] == "deep_ensemble(late_phase_bn(K=5), K=3)" and len(ranks.rows) == 4
    assert (
        "Left out, not in all 7 cells: partly (6). Methods that share a letter are not shown to differ." in ranks.note
    )


def test_few_cells_have_no_ranks_and_diversity_nothing_below(many):
    few = many[many["dataset"].isin(["data_1", "data_2"])]
    assert len(budget_and_rank_tables(leaderboard(few))) == 2
    assert budget_and_rank_tables(leaderboard(few.assign(members=3.0), "members")) == []


def test_below_the_boards_no_line_is_longer_than_a_hundred_characters(many):
    text = render(leaderboard(many))
    below = text[text.index("Best within") : text.index("Average ranks by")]
    assert max(cell_len(line) for line in below.splitlines()) <= 100


def test_markdown_escapes_names_below_the_boards_too(many):
    text = render(leaderboard(many), "markdown")
    below = text[text.index("### Best within") :]
    assert r"\\{}\$&amp;\#^\_\~%&lt;&gt;\|" in below and "| budget | best method | Accuracy (%) ↑ |" in below
    assert "### Average ranks over 7 cells" in below


def test_the_difference_stands_beside_the_metric_ranked_by(many):
    board = leaderboard(many.assign(adaptive_ece=0.1 * many["accuracy"]), "adaptive_ece")
    (head, *_) = [line for line in render(board, "markdown").splitlines() if line.startswith("| #")]
    assert head.startswith("| # | method | n | Adaptive ECE ↓ | Δ Adaptive ECE [95 %] ↓ | Accuracy (%) ↑ |")
    assert any(note.startswith("Δ: entry minus plain training") for note in board.attrs["notes"])


def test_a_board_without_plain_training_shows_no_differences(many):
    board = leaderboard(many[many["label"] != "sgd"])
    assert "Δ" not in render(board)
    assert "data_1 · resnet20: no differences to plain training (no finished run of sgd)." in board.attrs["notes"]


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
