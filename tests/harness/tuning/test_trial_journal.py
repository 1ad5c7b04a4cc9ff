"""The journal of a search: no trial is lost, duplicated or corrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from harness.store.claim import Owner
from harness.store.run_folder import describe_disk_error
from harness.tuning.trial_journal import Journal, JournalError, read_trials, trial_end, trial_owner

SPACE = {"p": FloatDistribution(0.0, 1.0), "q": FloatDistribution(0.0, 1.0)}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path, "k" * 64, "nll")


def begin(journal, p=0.5):
    journal.begin({"p": p, "q": 0.25}, SPACE, {"key": "x", "expected": 1.0})


def test_a_trial_begins_with_all_its_values_in_one_line(journal):
    lines = len(journal.path.read_text().splitlines())
    begin(journal)
    assert len(journal.path.read_text().splitlines()) == lines + 1
    (trial,) = journal.trials()
    assert (trial.number, trial.state, trial.params) == (0, TrialState.RUNNING, {"p": 0.5, "q": 0.25})
    assert (trial_owner(trial).process, trial_owner(trial).is_dead()) == (os.getpid(), False)
    assert trial_end(trial) == {"state": "running", "reason": "", "cost": 0.0}


def test_the_first_recorded_end_of_a_trial_stays(journal, tmp_path):
    for p in (0.1, 0.2, 0.3, 0.4):
        begin(journal, p)
    journal.refuse({"p": 0.5, "q": 0.5}, SPACE, {}, "no such thing")
    journal.report(1, 3, 2.5)
    other = Journal(tmp_path, "k" * 64, "nll")
    other.tell(0, "finished", 1.5, "", 1.0)
    journal.tell(0, "failed", None, "late", 0.0)
    journal.tell(1, "pruned", None, "bad", 0.4)
    journal.tell(2, "failed", None, "broken", 0.0)
    journal.tell(3, "diverged", None, "nan", 0.7)
    trials = Journal(tmp_path, "k" * 64, "nll").trials()
    assert [(t.state.name, t.values, trial_end(t)["state"], trial_end(t)["cost"]) for t in trials] == [
        ("COMPLETE", [1.5], "finished", 1.0),
        ("PRUNED", [2.5], "pruned", 0.4),
        ("FAIL", None, "failed", 0.0),
        ("FAIL", None, "diverged", 0.7),
        ("PRUNED", None, "refused", 0.0),
    ]
    assert trial_end(trials[1])["reason"] == "bad"


def test_opening_and_reporting_again_writes_nothing(journal, tmp_path):
    begin(journal)
    journal.report(0, 1, 2.5)
    before = journal.path.read_bytes()
    again = Journal(tmp_path, "k" * 64, "nll")
    again.report(0, 1, 2.5)
    assert journal.path.read_bytes() == before
    again.report(0, 2, 2.0)
    assert journal.trials()[0].intermediate_values == {1: 2.5, 2: 2.0}


def test_an_incomplete_last_line_is_removed(journal, tmp_path):
    begin(journal)
    whole = journal.path.read_bytes()
    for cut in (b'{"op_code":4,"wor', b"{", whole.splitlines()[-1]):
        journal.path.write_bytes(whole + cut)
        mended = Journal(tmp_path, "k" * 64, "nll")
        assert len(mended.trials()) == 1
        begin(mended, 0.75)
        assert [t.params["p"] for t in Journal(tmp_path, "k" * 64, "nll").trials()] == [0.5, 0.75]
        assert all(json.loads(line) for line in journal.path.read_text().splitlines())
        journal.path.write_bytes(whole)


@pytest.fixture
def listening():
    """Let Ctrl-C raise KeyboardInterrupt, also where the tests run in the background of a shell, which ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_ctrl_c_is_delayed_until_the_journal_is_written(journal, monkeypatch, listening):
    begin(journal)
    append = journal.storage._backend.append_logs

    def interrupted(logs):
        os.kill(os.getpid(), signal.SIGINT)
        append(logs)

    monkeypatch.setattr(journal.storage._backend, "append_logs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.tell(0, "finished", 1.5, "", 1.0)
    assert [trial.values for trial in journal.trials()] == [[1.5]]
    assert [path.name for path in journal.path.parent.iterdir()] == ["journal.log"], "no lock is left behind"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_journal_is_found_from_any_folder(tmp_path, monkeypatch):
    """Optuna's lock is a link to the journal. A relative link would be broken, and never be freed after a kill."""
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path("runs"), "k" * 64, "nll")
    assert journal.path == tmp_path / "runs" / "tuning" / ("k" * 64) / "journal.log"


class FileOnFullDisk:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        self.file.write(content[: self.room])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_journal_unchanged_and_is_named(journal, tmp_path, monkeypatch):
    begin(journal)
    whole = journal.path.read_bytes()
    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *a, **k: FileOnFullDisk(opened(path, *a, **k), 17))
        with pytest.raises(OSError, match="No space left") as caught:
            begin(journal, 0.75)
    assert describe_disk_error(caught.value) == f"no space is left for {journal.path}: free some"
    assert journal.path.read_bytes() == whole
    begin(journal, 0.75)
    assert [t.params["p"] for t in Journal(tmp_path, "k" * 64, "nll").trials()] == [0.5, 0.75]


def test_the_next_append_removes_an_incomplete_line(journal, tmp_path):
    """A process that already had the journal open must not continue the line of a killed process."""
    begin(journal)
    with journal.path.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    begin(journal, 0.75)
    assert [t.params["p"] for t in journal.trials()] == [0.5, 0.75]
    assert [t.params["p"] for t in Journal(tmp_path, "k" * 64, "nll").trials()] == [0.5, 0.75]
    assert all(json.loads(line) for line in journal.path.read_text().splitlines())


def test_reading_trials_writes_nothing(journal, tmp_path):
    begin(journal)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [t.params["p"] for t in read_trials(tmp_path, "k" * 64)] == [0.5]
    assert read_trials(tmp_path, "l" * 64) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_owners_are_described_as_in_claims(tmp_path):
    """An owner is a process number and a start time, so a reused process number is another process."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = Owner.current_process("")
    for changes, dead in (
        ({}, False),
        ({"process": gone.pid}, True),
        ({"started": -1}, True),
        ({"machine": "x"}, False),
    ):
        journal = Journal(tmp_path, str(changes), "nll")
        begin(journal)
        owner = {**journal.trials()[0].user_attrs["owner"], **changes}
        assert owner.keys() == vars(here).keys()
        journal.storage.set_trial_user_attr(journal.storage_id(0), "owner", owner)
        assert trial_owner(journal.trials()[0]).is_dead() == dead


@pytest.mark.parametrize("damage", [b"\xff\n", b"{\n", b"[1]\n", b"{}\n"])
def test_a_damaged_line_is_named(journal, tmp_path, damage):
    begin(journal)
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([lines[0], damage, *lines[1:]]))
    for read in (lambda: Journal(tmp_path, "k" * 64, "nll"), lambda: read_trials(tmp_path, "k" * 64)):
        with pytest.raises(JournalError, match=r"journal\.log: line 2 is damaged \(.*remove .*/k+$"):
            read()
