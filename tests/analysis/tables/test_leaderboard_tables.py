"""Leaderboards as text, Markdown and CSV."""

import io
from pathlib import Path

import pandas as pd
import pytest

from analysis import latex, leaderboard, render

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


def test_the_difference_stands_beside_the_metric_ranked_by(many):
    board = leaderboard(many.assign(adaptive_ece=0.1 * many["accuracy"]), "adaptive_ece")
    (head, *_) = [line for line in render(board, "markdown").splitlines() if line.startswith("| #")]
    assert head.startswith("| # | method | n | Adaptive ECE ↓ | Δ Adaptive ECE [95 %] ↓ | Accuracy (%) ↑ |")
    assert any(note.startswith("Δ: entry minus plain training") for note in board.attrs["notes"])


def test_a_board_without_plain_training_shows_no_differences(many):
    board = leaderboard(many[many["label"] != "sgd"])
    assert "Δ" not in render(board)
    assert "data_1 · resnet20: no differences to plain training (no finished run of sgd)." in board.attrs["notes"]


def test_the_caption_says_what_was_tuned(frame):
    said = "Tuned on validation data (NLL, at most 20 trials & more): swa. Not tuned: sgd."
    marked = frame.copy()
    marked.attrs = {**frame.attrs, "tuning": said}
    board = leaderboard(marked)
    for format in ("text", "markdown"):
        assert said.replace("&", "&amp;" if format != "text" else "&") in render(board, format), format
    assert said.replace("&", r"\&") in latex(board).split(r"\label")[0]
    assert board.attrs["notes"][1] == said
    assert "Tuned" not in render(leaderboard(frame)) + latex(leaderboard(frame))
