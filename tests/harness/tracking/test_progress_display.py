"""The progress display: on terminals of any size, and without a terminal."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.store import claim
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from harness.tracking import progress_display
from harness.tracking.progress_display import ProgressDisplay, StudyStoppedError


class FakeMirror:
    """A fake `Mirror` that remembers what it is sent."""

    def __init__(self, runs):
        self.runs, self.problem, self.sent = runs, "", []

    def send(self, planned, *, live=False):
        self.sent.append((planned.key, live))


@pytest.fixture
def watched(tmp_path, write_study, monkeypatch):
    """Return a function that displays a study of eight runs, in a console of some size."""
    monkeypatch.setattr(progress_display, "REFRESH_SECONDS", 0.0)
    plan = Plan(load(str(write_study(tmp_path / "rows.yaml", seeds=list(range(8)), recipe={"epochs": 10}))))

    def make(terminal=True, height=12, finished=0):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=height, legacy_windows=False)
        schedule = Schedule(plan.runs, set(list(plan.runs)[:finished]))
        return ProgressDisplay(plan, schedule, FakeMirror(tmp_path), console)

    yield SimpleNamespace(make=make, plan=plan, root=tmp_path)
    for held in list(claim.OWN_CLAIMS.values()):
        held.release()


def start(display, count):
    """Start so many runs."""
    for _ in range(count):
        key = display.schedule.take()
        display.started(display.plan.runs[key])


def write_progress(root, key, *, claimed=True, **progress):
    """Write a run's progress.json, as if a process on node7 trained it; claim the run in this process."""
    if claimed and RunFolder(root, key).path not in claim.OWN_CLAIMS:
        claim.acquire_claim(RunFolder(root, key).path)
    known = {"stage": "training", "epoch": 0, "epochs": 10, "host": "node7", "pid": 12, "time": time.time()}
    write_json(RunFolder(root, key).progress, known | progress)


def lines(display):
    """Return the bars as lines of text."""
    console = Console(width=100, file=io.StringIO())
    console.print(display.bars.get_renderable())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_bars_show_how_far_each_run_is(watched):
    with watched.make(finished=1) as display:
        start(display, 3)
        first, second, third = (key for key in watched.plan.runs if key in display.schedule.running)
        write_progress(watched.root, first, epoch=4, pace=20.0)
        write_progress(watched.root, second, stage="evaluating", epoch=10, pace=10.0)
        write_progress(watched.root, third, stage="starting")
        display.tick()
        total, *bars = lines(display)
        # 6 epochs of the first, 10 of the third and of four others, at the mean of 15 s; three runs at once
        assert total.startswith("1 of 8 finished, 3 running, about 5 min left"), (6 + 10 + 40) * 15 / 3
        assert bars[0].endswith("epoch 4 of 10, 2 min left")
        assert bars[1].endswith("evaluating") and bars[2].endswith("starting")
        assert display.mirror.sent == [(first, True), (second, True)], "those with an epoch done"


def test_bars_fit_into_the_terminal(watched):
    with watched.make(height=5) as display:
        start(display, 7)
        for key in display.schedule.running:
            write_progress(watched.root, key, epoch=1)
        display.tick()
        shown = lines(display)
        assert len(shown) == 4
        assert shown[0].startswith("0 of 8 finished, 7 running (4 not shown)")
        first = next(iter(display.start_times))
        display.schedule.end(first, Outcome("finished"))
        display.ended(watched.plan.runs[first], Outcome("finished"))
        assert len(lines(display)) == 4, "another one has its place"
        assert lines(display)[0].startswith("1 of 8 finished, 6 running (3 not shown)")


def test_runs_of_another_driver_are_marked(watched, monkeypatch):
    monkeypatch.setattr(progress_display, "ELSEWHERE_SECONDS", 0.0)
    with watched.make() as display:
        start(display, 1)
        *_, other, stopped = watched.plan.runs
        write_progress(watched.root, stopped, claimed=False, epoch=3)
        with RunFolder(watched.root, other).claim("waiting"):
            write_progress(watched.root, other, epoch=2)
            display.tick()
            total, _, there = lines(display)
            assert total.startswith("0 of 8 finished, 2 running, 1 elsewhere")
            assert there.strip().startswith(str(watched.plan.runs[other].run)[:40])
            assert there.endswith("then no epoch yet · node7:12")
        display.tick()
        assert lines(display)[0].startswith("0 of 8 finished, 1 running") and len(lines(display)) == 2


def test_without_a_terminal_a_line_per_run_and_a_rare_summary(watched, monkeypatch):
    monkeypatch.setattr(progress_display, "PRINT_SECONDS", 0.0)
    with watched.make(terminal=False) as display:
        start(display, 2)
        first, second = display.start_times
        monkeypatch.setattr(progress_display, "PRINT_SECONDS", 1000.0)
        for key, outcome in ((first, Outcome("finished")), (second, Outcome("failed", "ValueError: no"))):
            display.schedule.end(key, outcome)
            display.ended(watched.plan.runs[key], outcome)
        printed = display.console.file.getvalue().splitlines()
    name = "sgd · lenet5 · rows · seed"
    assert "0 of 8 finished, 2 running" in printed
    assert printed[-2].startswith(f"[1/8] {name} 0: finished in ")
    assert printed[-1].startswith(f"[2/8] {name} 1: failed in ") and printed[-1].endswith("s: ValueError: no")
    assert [sent for sent in display.mirror.sent if not sent[1]] == [(first, False), (second, False)]


def test_an_unavailable_store_and_its_return_are_printed_once(watched):
    with watched.make(terminal=False) as display:
        for problem in (
            "",
            "no store: refused",
            "no store: refused",
            "no store: timed out",
            "",
            "",
            "no store: refused",
        ):
            display.mirror.problem = problem
            display.tick()
        printed = display.console.file.getvalue().splitlines()
    warning = "warning: no store: refused; training continues, and the missing runs are sent later"
    assert printed == [warning, "the tracking store works again", warning]


def test_a_run_that_cannot_write_stops_the_study(watched):
    with pytest.raises(StudyStoppedError, match="no space is left for x: free some"), watched.make() as display:
        start(display, 1)
        (key,) = display.start_times
        display.ended(watched.plan.runs[key], Outcome("blocked", "no space is left for x: free some"))
