"""Tests that files are replaced atomically."""

import json
import math
import subprocess
import sys

import pytest

from harness.store.damaged_files import read_json
from harness.store.run_folder import RunFolder, write_atomically, write_json, write_json_lines
from tests.harness.made_up import made_up_result


class KilledError(BaseException):
    """Not an Exception, as KeyboardInterrupt is none."""


@pytest.mark.parametrize("error", [OSError, KilledError])
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def breaks(file):
        file.write(b"half of the n")
        file.flush()
        raise error

    with pytest.raises(error):
        write_atomically(path, breaks)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_first_write_that_breaks_off_leaves_nothing(tmp_path):
    def breaks(file):
        file.write(b"x")
        raise KilledError

    with pytest.raises(KilledError):
        write_atomically(tmp_path / "file", breaks)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_of_a_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def save(file):
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    write_atomically(path, save, durable=False)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_in_mid_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_json(path, {"epoch": 1})
    program = (
        "import sys, time; from pathlib import Path; from harness.store.run_folder import write_atomically\n"
        "def save(file):\n    file.write(b'half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
        "write_atomically(Path(sys.argv[1]), save)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert json.loads(path.read_text()) == {"epoch": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_no_json(tmp_path, value):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": [value]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_lines(path, [{"a": value}])
    assert json.loads(path.read_text()) == {"a": 1}


def test_lines_come_back(tmp_path):
    folder = RunFolder(tmp_path, "k" * 64)
    assert folder.read_epochs() == []
    lines = [{"epoch": 1, "time": 0.5, "train/loss": 0.1}, {"epoch": 2, "time": 0.7, "train/loss": 1e-9}]
    write_json_lines(folder.metrics, lines)
    assert folder.read_epochs() == lines
    write_json_lines(folder.metrics, lines[:1])
    assert folder.read_epochs() == lines[:1]


def test_only_a_whole_result_makes_a_run_finished(tmp_path):
    folder = RunFolder(tmp_path, "k")
    assert not folder.finished
    for path in (folder.spec, folder.checkpoint, folder.metrics, folder.predictions, folder.failure, folder.progress):
        write_atomically(path, lambda file: file.write(b'{"key": "k"}'))
        assert not folder.finished
    for broken in (b"", b'{"key":', b'{"key": "k"}'):
        write_atomically(folder.result, lambda file, broken=broken: file.write(broken))
        assert not folder.finished
    write_json(folder.result, made_up_result("k"))
    assert folder.finished


EXTRA = {"numbers": [1, 2.5, None], "text": "x"}  # what later versions may add


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "other"}, "is the result of another run, other"),
        ({"metrics": None}, "lacks metrics"),
        ({"metrics": [], "cost": 3}, "lacks metrics, cost"),
        ({"metrics": {"nll": "low"}}, "has no number for nll"),
        ({"timing": {}}, "lacks timing/finished"),
        ({"timing": {"finished": 1, "cost/train_seconds": "1 s"}}, "has no number for cost/train_seconds"),
        ({"members": {"nll": 3}}, "has curves over members that are no lists"),
        ({"members": {"nll": {"1": "low"}}}, "has no number for 1"),
        ({"provenance": {"commit": 3}}, "has a provenance that is no text"),
    ],
)
def test_a_result_that_lacks_a_part_is_named_once(tmp_path, capsys, changes, reason):
    folder = RunFolder(tmp_path, "k")
    write_json(folder.result, made_up_result("k", **EXTRA))
    assert folder.finished
    write_json(folder.result, made_up_result("k", **changes))
    assert not folder.finished and folder.read_result() == {}
    assert capsys.readouterr().err == f"{folder.result}: {reason}; it is taken for missing\n"


def test_a_result_of_a_trial_has_other_parts(tmp_path):
    folder = RunFolder(tmp_path, "tuning/search/run")
    end = {"state": "diverged", "reason": "not a number", "value": None, "plain_trainings": 0.5}
    whole = made_up_result("run", **end)
    write_json(folder.result, whole)
    assert folder.finished
    for part in (*end, "metrics"):
        write_json(folder.result, {name: value for name, value in whole.items() if name != part})
        assert not folder.finished


def test_damaged_lines_are_left_out_and_named(tmp_path, capsys):
    folder = RunFolder(tmp_path, "k")
    folder.path.mkdir()
    good = b'{"epoch": 1, "time": 2.0, "train/loss": NaN}\n'
    bad = [
        b"\xff\n",
        b"[1]\n",
        b'{"epoch": 1}\n',
        b'{"epoch": 1, "time": 1, "train/loss": "x"}\n',
        b"[" * 10**5 + b"\n",
    ]
    folder.metrics.write_bytes(good + b"".join(bad) + good[:-9])
    (line,) = folder.read_epochs()
    assert line["time"] == 2.0
    said = capsys.readouterr().err.splitlines()
    assert [text.split()[2] for text in said] == ["2", "3", "4", "5", "6", "7"]
    assert all(text.startswith(f"{folder.metrics}: line ") for text in said)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe", bytes(40)])
def test_a_corrupt_file_counts_as_missing(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    assert read_json(tmp_path / "result.json") == {}
