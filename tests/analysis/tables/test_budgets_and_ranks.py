"""The tables below a leaderboard, in text and Markdown."""

from rich.cells import cell_len

from analysis import leaderboard, render
from analysis.tables.budgets_and_ranks import budget_and_rank_tables


def test_tables_below_the_boards(many):
    *budgets, ranks = budget_and_rank_tables(leaderboard(many))
    assert [table.title for table in budgets] == [
        f"Best method within a budget (of: entries within the budget) · data_{i} · resnet20" for i in range(7)
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
    below = text[text.index("Best method within") : text.index("Average ranks by")]
    assert max(cell_len(line) for line in below.splitlines()) <= 100


def test_markdown_escapes_names_below_the_boards_too(many):
    text = render(leaderboard(many), "markdown")
    below = text[text.index("### Best method within") :]
    assert r"\\{}\$&amp;\#^\_\~%&lt;&gt;\|" in below and "| budget | best method | Accuracy (%) ↑ |" in below
    assert "### Average ranks over 7 cells" in below
