"""The status of a study: read from run folders, in every state, with an estimate of the time left."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from harness.cli import app as cli
from harness.cli import status as cli_status
from harness.cli.options.plain_console import PlainConsole
from harness.planning.plan import Plan
from harness.running.execute import execute, record_failure
from harness.running.settings import Settings
from harness.store import progress
from harness.store.damaged_files import read_json
from harness.store.outcome import Outcome
from harness.store.progress import ProgressFile
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from harness.tracking.status import (
    RunStatus,
    count_states,
    format_clock,
    format_duration,
    read_status,
    read_statuses,
    seconds_left,
    unstarted_status,
)

METHODS = ["sgd", "swa(start=1)", "late_phase_bn(K=2, start=1)", "dropout", "mc_dropout"]
HOLD = """
import sys, time
from pathlib import Path
from harness.store.run_folder import RunFolder
from harness.store.progress import ProgressFile
folder = RunFolder(Path(sys.argv[1]), sys.argv[2])
with folder.claim("waiting"):
    ProgressFile(folder.progress, "cpu")
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def claimed_by_another_process(root, key):
    """Let another process claim a run; give its process id."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(root), key], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def plan(tmp_path, write_study):
    return Plan(load(str(write_study(tmp_path / "rows.yaml", methods=METHODS))))


@pytest.fixture
def statuses():
    """A finished, two running, a stopped, a failed and two new runs, of two methods."""
    new = RunStatus("0", "a", "a", "cell", "to do", epochs=10)
    return [
        replace(new, state="finished", epoch=10),
        replace(new, state="running", stage="training", epoch=6, pace=2.0, ends=1000.0),
        replace(new, label="b", state="running", stage="training", epoch=5, pace=4.0, ends=1010.0),
        replace(new, state="stopped", epoch=7),
        replace(new, state="failed", epoch=7),
        new,
        replace(new, label="c"),
    ]


def test_every_state(plan, tmp_path, run_study):
    runs = tmp_path / "runs"
    finished, running, stopped, failed, new = plan.runs.values()
    assert execute(finished.run, Settings(runs), []).state == "finished"
    write_json(RunFolder(runs, stopped.key).progress, {"stage": "training", "epoch": 2, "epochs": 3, "time": 50.0})
    record_failure(RunFolder(runs, failed.key), Outcome("failed", "ValueError: no"))
    with claimed_by_another_process(runs, running.key) as pid:
        before = time.time()
        found = read_statuses(plan, runs)
    states = ["finished", "running", "stopped", "failed", "to do"]
    assert [status.state for status in found] == states
    assert [status.key for status in found] == list(plan.runs)
    assert [status.epochs_left for status in found] == [0, 3, 1, 3, 3]
    assert count_states(found) == dict.fromkeys(states, 1)
    assert (found[1].stage, found[1].host, found[1].pid) == ("starting", socket.gethostname(), pid)
    assert found[1].sign == pytest.approx(before, abs=5)
    assert (found[2].epoch, found[2].sign) == (2, 50.0)
    assert found[3].reason == "ValueError: no"
    assert found[4] == unstarted_status(new)
    after = read_statuses(plan, runs)
    assert [status.state for status in after] == ["finished", "stopped", "stopped", "failed", "to do"], (
        "its end is seen"
    )


def test_a_run_writes_its_progress(plan, tmp_path):
    planned = next(iter(plan.runs.values()))
    folder = RunFolder(tmp_path, planned.key)
    seen, stages, enter = [], [], ProgressFile.enter_stage

    def entering(self, stage):
        enter(self, stage)
        stages.append(read_status(unstarted_status(planned), tmp_path, "running"))

    def report():
        seen.append((read_json(folder.progress), read_status(unstarted_status(planned), tmp_path, "running")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressFile, "enter_stage", entering)
        start = time.time()
        assert execute(planned.run, Settings(tmp_path), [], report).state == "finished"
    assert [status.stage for status in stages] == ["starting", "training", "preparing", "evaluating"]
    described = ["starting", "epoch 0 of 3, then no epoch yet", "preparing", "evaluating"]
    assert [status.describe() for status in stages] == described
    assert [status.ends for status in stages] == [None] * 4
    assert [status.epochs_left for status in stages] == [3, 3, 0, 0]
    lines = folder.read_epochs()
    for epoch, (told, status) in enumerate(seen, start=1):
        assert told["train/loss"] == lines[epoch - 1]["train/loss"]
        assert (status.epoch, status.epochs, status.describe()) == (epoch, 3, f"epoch {epoch} of 3")
        assert (status.host, status.pid, status.device) == (socket.gethostname(), os.getpid(), "cpu")
        assert status.pace == (told["time"] - told["began"]) / epoch or status.pace == told["pace"]
        assert start < told["began"] < told["time"] < time.time()
        assert status.ends == pytest.approx(told["time"] + (3 - epoch) * told["pace"])
    assert not folder.progress.exists()


def test_pace_is_measured_since_the_resume(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    path = tmp_path / "progress.json"
    told = ProgressFile(path, "cuda:1")
    told.begin_training(0, 20)
    now[0] = 108.0
    told.complete_epoch(4)
    assert read_json(path)["pace"] == 2.0
    now[0] = 500.0
    told = ProgressFile(path, "cpu")
    assert (read_json(path)["epoch"], read_json(path)["epochs"]) == (4, 20), "still known while data are loaded"
    assert "pace" not in read_json(path)
    now[0] = 510.0
    told.begin_training(3, 20)  # that of the checkpoint
    now[0] = 525.0
    told.complete_epoch(6, {"train/loss": 0.5})
    found = read_json(path)
    assert (found["pace"], found["epoch"], found["train/loss"]) == (5.0, 6, 0.5)
    told.enter_stage("evaluating")
    assert read_json(path)["pace"] == 5.0, "what a method's epochs take is known after them, too"


def test_time_left_of_a_study(statuses):
    # a: 4 + 3 + 10 epochs at 2 s; b: 5 at 4 s; c, of which none runs, 10 at their mean; two at once
    assert seconds_left(statuses, 1000.0) == pytest.approx((17 * 2 + 5 * 4 + 10 * 3) / 2)
    long = [replace(status, ends=5000.0) if status.label == "b" else status for status in statuses]
    assert seconds_left(long, 1000.0) == 4000.0, "not before the longest one ends"


def test_time_left_is_unknown_where_nothing_runs_or_has_a_pace(statuses):
    assert seconds_left([status for status in statuses if status.state != "running"], 0.0) is None
    assert seconds_left([replace(status, pace=None, ends=None) for status in statuses], 0.0) is None


def draw(found, now=0.0, width=200):
    console = PlainConsole(width=width, file=io.StringIO())
    console.print(cli_status.draw_status("s", found, now))
    return console.file.getvalue()


def test_the_tables(statuses):
    named = [replace(status, host="node7", pid=12, device="cuda:3", sign=880.0) for status in statuses]
    lines = draw(
        [replace(status, reason="[/red] no") if status.state == "failed" else status for status in named], 940.0
    )
    first, second, *_ = lines.splitlines()
    assert first == "1 finished, 2 running, 1 stopped, 1 failed, 2 to do"
    assert second == f"about 70 s left, until {format_clock(1010.0, 940.0)}, without evaluation"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines.splitlines() if line[0] == "│"]
    assert [
        "a",
        "epoch 6 of 10",
        "2 s",
        "60 s",
        format_clock(1000.0, 940.0),
        "node7:12 cuda:3",
        "60 s ago",
    ] in rows
    assert ["a", "failed", "", "node7:12 cuda:3", "60 s ago", "[/red] no"] in rows
    assert ["a", "1", "1", "1", "1", "1", "20"] in rows
    assert ["total", "1", "2", "1", "1", "2", "35"] in rows
    assert "time left: unknown, for nothing runs" in draw([statuses[-1]])
    assert "unknown until what runs has finished an epoch" in draw([replace(statuses[1], pace=None, ends=None)])
    assert "left" not in draw([statuses[0]]).splitlines()[1]


def test_times_for_people():
    texts = {-3: "0 s", 5.4: "5 s", 99: "99 s", 100: "2 min", 5900: "98 min", 6000: "1 h 40 min", 12_000: "3 h 20 min"}
    texts |= {187_000: "2 d 3 h"}
    assert {seconds: format_duration(seconds) for seconds in texts} == texts
    noon = time.mktime((2026, 11, 21, 12, 0, 0, 0, 0, -1))
    assert format_clock(noon + 3660, noon) == "13:01"
    assert format_clock(noon + 86400, noon) == "Nov 22 12:00"


def test_for_scripts_and_while_a_driver_runs(plan, tmp_path, monkeypatch, capsys):
    def econ(*arguments):
        monkeypatch.setattr(sys, "argv", ["econ", "status", str(tmp_path / "rows.yaml"), *map(str, arguments)])
        cli.main()

    key = next(iter(plan.runs))
    with claimed_by_another_process(tmp_path / "runs", key) as pid, pytest.raises(SystemExit) as end:
        econ("--runs", tmp_path / "runs", "--json")
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"finished": 0, "running": 1, "stopped": 0, "failed": 0, "to do": 4}
    assert (found["study"], found["epochs_left"], found["seconds_left"]) == ("rows", 10, None), "of 15 without trunks"
    assert found["methods"]["sgd"] == {"finished": 0, "running": 1, "stopped": 0, "failed": 0, "to do": 0}
    trunks = [run for run in found["runs"] if run["role"] == "trunk"]
    assert [run["key"] for run in found["runs"] if run not in trunks] == list(plan.runs)
    assert len(trunks) == 2
    begun = next(run for run in found["runs"] if run["key"] == key)
    assert (begun["pid"], begun["stage"], begun["shared"], begun["epochs_left"]) == (pid, "starting", 1, 2)
    with pytest.raises(SystemExit) as end:
        econ("--json", "--watch")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: --watch is for people, --json for scripts: give one of them\n"


def test_watching_ends_with_the_study(plan, tmp_path, monkeypatch, capsys):
    looks = iter([["running"], ["running"], ["finished"]])
    new = unstarted_status(next(iter(plan.runs.values())))
    monkeypatch.setattr(
        "harness.tracking.status.read_statuses", lambda plan, runs: [replace(new, state=state) for state in next(looks)]
    )
    monkeypatch.setattr(cli_status, "console", PlainConsole(width=120))
    cli_status.status(str(tmp_path / "rows.yaml"), tmp_path, None, watch=True, every=0.01, as_json=False)
    assert "1 finished, 0 running" in capsys.readouterr().out
    assert next(looks, None) is None
