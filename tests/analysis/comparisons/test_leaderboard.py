"""Ranks and notes of a leaderboard."""

import pandas as pd
import pytest

from analysis import leaderboard, render


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
    with pytest.raises(ValueError, match=r"no run has 'ece'; a leaderboard can rank by: accuracy"):
        leaderboard(runs({"label": "sgd", "accuracy": 90.0}), by="ece")


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


def test_notes_say_where_devices_or_their_rounding_differ(runs):
    cpu, gpu = "cpu (x86_64)", "cuda (NVIDIA H200)"
    machines = [(cpu, "none"), (gpu, "convolutions"), (gpu, "convolutions"), ("", "")]
    rows = [{"label": str(i), "accuracy": 90.0, "device": d, "tf32": t} for i, (d, t) in enumerate(machines)]

    def device_notes(rows):
        return [note for note in leaderboard(runs(*rows)).attrs["notes"] if note.startswith("Different")]

    assert device_notes(rows[:3]) == [
        f"Different devices: 1 on {cpu} and 2 on {gpu}. Seconds do not compare, and results differ by rounding.",
        "Different rounding: float32 arithmetic in TF32: 2 with convolutions and 1 with none.",
    ]
    assert "1 on unknown" in device_notes(rows[2:])[0]
    assert device_notes(rows[1:3]) == device_notes(rows[:1]) == []
    rows[2]["tf32"] = "none"
    assert [note.split(":")[0] for note in device_notes(rows[1:3])] == ["Different rounding"]


def test_notes_say_where_official_corrupted_files_differ(runs):
    rows = [
        {"label": str(i), "dataset": f"c{i // 3}", "accuracy": 90.0, "official_corruptions": digest}
        for i, digest in enumerate(["a" * 64, "b" * 64, "a" * 64, "", ""])
    ]
    notes = [note for note in leaderboard(runs(*rows)).attrs["notes"] if note.startswith("Different")]
    assert notes == [
        "Different official corrupted files of c0: 2 of aaaaaaaaaaaa and 1 of bbbbbbbbbbbb. Scores on them do not "
        "compare."
    ]
