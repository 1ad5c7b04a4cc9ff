"""Ranks, and the three forms of a leaderboard."""

import io
from pathlib import Path

import pandas as pd
import pytest

from analysis import describe, leaderboard, render

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def board(frame):
    return leaderboard(frame)


@pytest.mark.parametrize(("format", "file"), [("text", "leaderboard.txt"), ("markdown", "leaderboard.md")])
def test_golden(board, format, file):
    assert render(board, format) == (GOLDEN / file).read_text(encoding="utf-8")


def test_golden_csv(board):
    text = render(board, "csv")
    assert text.startswith("dataset,architecture,rank,label,method,n,evaluated_on,accuracy_mean,accuracy_std,")
    found, golden = pd.read_csv(io.StringIO(text)), pd.read_csv(GOLDEN / "leaderboard.csv")
    pd.testing.assert_frame_equal(found, golden, rtol=1e-9, atol=1e-12)


def test_rank_by_accuracy_then_nll(runs):
    values = {"a": (90, 0.5), "b": (91, 0.4), "c": (91, 0.3), "d": (91, 0.4), "e": (float("nan"), 0.1)}
    board = leaderboard(runs(*({"label": k, "accuracy": a, "nll": n} for k, (a, n) in values.items())))
    assert board["label"].tolist() == ["c", "b", "d", "a", "e"]
    assert board["rank"].tolist() == [1, 2, 2, 4, pd.NA]


def test_rank_by_a_metric_of_which_less_is_better(runs):
    rows = [{"label": k, "accuracy": a, "nll": n} for k, a, n in [("a", 90, 0.5), ("b", 91, 0.5), ("c", 80, 0.1)]]
    board = leaderboard(runs(*rows), by="nll")
    assert board["label"].tolist() == ["c", "b", "a"]


def test_what_was_chosen_on_test_data_has_no_row(runs):
    rows = [{"label": k, "accuracy": a, "chosen_on": on} for k, a, on in [("a", 90, ""), ("b", 99, "test")]]
    board = leaderboard(runs(*rows))
    assert board["label"].tolist() == ["a"]
    note = "Chosen on test data: not ranked (1 run: b)."
    assert board.attrs["left_out"] == board.attrs["notes"][1] == note
    assert all(note in render(board, format).replace("\\", "") for format in ("text", "markdown"))


def test_rank_by_what_no_run_has(runs):
    with pytest.raises(ValueError, match=r"no run has 'ece'; a leaderboard can go by: accuracy"):
        leaderboard(runs({"label": "sgd", "accuracy": 90.0}), by="ece")


def test_unknown_format(board):
    with pytest.raises(ValueError, match="not 'pdf'"):
        render(board, "pdf")


def test_text_keeps_to_a_width(board):
    lines = render(board, width=80).split("Mean ±")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("late_phase_bn" in line for line in lines) > 1  # the table goes on below


def test_terminal_codes_in_a_name_are_dropped(runs):
    text = render(leaderboard(runs({"label": "a\x1b[31m\nb", "accuracy": 90.0})))
    assert "\x1b" not in text and "a [31m b" in text


def test_markdown_escapes_names(runs):
    text = render(leaderboard(runs({"label": "a|b_<i>`\\", "accuracy": 90.0})), "markdown")
    assert "| a\\|b\\_&lt;i&gt;\\`\\\\ |" in text


def test_notes_count_what_is_missing(runs):
    frame = runs({"label": "sgd", "accuracy": 90.0, "evaluated_on": "validation"})
    cell = {"label": "swa", "architecture": "x", "dataset": "y", "state": "failed", "reason": "a\nb"}
    frame.attrs["unfinished"] = [cell | {"seed": str(i)} for i in range(7)] + [{"state": "missing"}] * 2
    notes = leaderboard(frame).attrs["notes"]
    assert notes[0] == "Mean ± sample standard deviation (n − 1) over n = 1 seed, on validation data."
    assert "Not shown, missing: 2 runs." in notes
    failed = next(note for note in notes if "failed" in note)
    assert failed.startswith("Not shown, failed: 7 runs (swa · x · y · seed 0: b; ")
    assert failed.endswith("seed 4: b; and 2 more).")


def test_metrics_are_described_in_one_place():
    assert (describe("nll").better, describe("accuracy").better) == ("lower", "higher")
    assert (describe("ood_auroc/svhn").title, describe("ood_auroc/svhn").better) == ("OOD AUROC, svhn", "higher")
    assert describe("spent/train_seconds").unit == "s"
    assert describe("brand_new").better is None
