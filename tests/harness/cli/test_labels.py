"""The labels of LaTeX tables: one document holds the tables of several studies."""

import re
import shutil

import pytest

from analysis import document
from tests.typeset import MULTIPLY, typeset

PAPER = {
    "source": "Nobody 2021, Table 1",
    "seeds": 1,
    "rows": ["sgd"],
    "columns": ["Accuracy (%)"],
    "values": [["90.0"]],
}
LABELS = {
    "mine": ["tab:mine", "tab:mine-budgets"],
    "my_other": ["tab:my-other", "tab:my-other-budgets"],
    "paper": ["tab:paper"],
    "reprint": ["tab:reprint"],
}


@pytest.fixture
def tables(run_here, write_study, empty_store, tmp_path, monkeypatch):
    """The LaTeX that the command line writes of two studies' boards, and of two that stand beside one paper."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    written = {}
    for study in LABELS:
        also = {"paper": PAPER} if study in ("paper", "reprint") else {}
        write_study(tmp_path / f"{study}.yaml", methods=["sgd", "swa"], recipe={"epochs": 1}, **also)
        for command in ("run", "table"):
            code, written[study], wrong = run_here(command, f"{study}.yaml")
            assert code == 0, wrong
    return written


def test_tables_of_several_studies_stand_in_one_document(tables, tmp_path):
    assert {study: re.findall(r"\\label\{(.*?)\}", text) for study, text in tables.items()} == LABELS
    assert MULTIPLY not in typeset(document(*tables.values()), tmp_path)


def test_two_tables_of_one_label_would_be_found(tmp_path):
    table = "\\begin{table}\\caption{One.}\\label{tab:one}\\end{table}\n"
    assert MULTIPLY in typeset(document(table, table), tmp_path)
    assert MULTIPLY not in typeset(document(table, table.replace("tab:one", "tab:日本")), tmp_path)
