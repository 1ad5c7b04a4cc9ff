"""What counts as damage of a file: values that no run writes, and that nothing could use."""

import errno
import json
import math
from pathlib import Path

import pytest

from harness.store import damaged_files
from harness.store.damaged_files import EPOCH_PARTS, progress_problem, read_json, read_json_lines, result_problem

WHOLE = {
    "key": "k",
    "metrics": {"accuracy": 97.5, "ece": math.nan, "nll": math.inf},
    "cost": {"forward_examples": 10},
    "spent": {"forward_examples": 10},
    "timing": {"finished": 1.8e9, "train_seconds": 2.0},
    "provenance": {"commit": "a"},
    "members": {"accuracy": [96.0, 97.0], "nll": {"2": 0.1}},
}


def changed(**parts):
    return {**WHOLE, **{name: {**WHOLE[name], **p} if isinstance(p, dict) else p for name, p in parts.items()}}


def test_a_whole_result_has_no_problem():
    assert result_problem(WHOLE, "k") == ""


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (changed(timing={"finished": math.inf}), "lacks timing/finished"),
        (changed(timing={"finished": 10**400}), "lacks timing/finished"),
        (changed(metrics={"accuracy": 10**400}), "has no number for accuracy"),
        (changed(members={"accuracy": {"a": 1.0}}), "has curves over members that are no lists"),
        (changed(members={"accuracy": [10**400]}), "has no number for 0"),
        (changed(arrays=5), "has no list of names of arrays"),
        (changed(arrays=[1]), "has no list of names of arrays"),
        (changed(evaluated_on=[1]), "has no text that says on what it was evaluated"),
    ],
)
def test_results_that_nothing_can_use(result, problem):
    assert result_problem(result, "k") == problem


@pytest.mark.parametrize(
    "line",
    [
        '{"epoch": 1, "time": 1e999}',
        '{"epoch": 1' + 24 * "0" + ', "time": 1}',
        '{"epoch": 1, "time": 1, "x": 1' + 400 * "0" + "}",
    ],
)
def test_epochs_that_nothing_can_use(tmp_path, line, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "time": 1.0, "train/loss": Infinity}\n' + line)
    assert [found["train/loss"] for found in read_json_lines(path, EPOCH_PARTS)] == [math.inf]
    assert "line 2 " in capsys.readouterr().err


def test_progress_of_no_end():
    progress = {"stage": "training", "epoch": 0, "epochs": 1, "time": 1.0}
    assert progress_problem(progress) == ""
    assert progress_problem({**progress, "pace": math.inf}) == "lacks pace"


def test_a_link_to_itself_is_damaged(tmp_path, capsys):
    damaged_files.NAMED.clear()
    path = tmp_path / "result.json"
    path.symlink_to(path)
    assert read_json(path) == {} and list(read_json_lines(path, EPOCH_PARTS)) == []
    assert capsys.readouterr().err.count(str(path)) >= 2
    path.unlink()
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}


def test_an_error_that_may_pass_makes_no_file_missing(tmp_path, monkeypatch):
    """A result that is taken for missing is removed, and the run trained again."""

    def fail(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_json(tmp_path / "result.json")
    with pytest.raises(OSError, match="Input/output error"):
        list(read_json_lines(tmp_path / "metrics.jsonl", EPOCH_PARTS))
