"""What a person sees while a study runs: on a terminal of any size, and elsewhere."""

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
from harness.tracking import progress_display as watch
from harness.tracking.progress_display import ProgressDisplay, StudyStoppedError


class Store:
    """Stands in for a mirror, and remembers what it is sent."""

    def __init__(self, runs):
        self.runs, self.problem, self.sent = runs, "", []

    def send(self, planned, *, live=False):
        self.sent.append((planned.key, live))


@pytest.fixture
def watched(tmp_path, write_study, monkeypatch):
    """Give a function that shows a study of eight runs, in a console of some size."""
    monkeypatch.setattr(watch, "SHOWN", 0.0)
    plan = Plan(load(str(write_study(tmp_path / "rows.yaml", seeds=list(range(8)), recipe={"epochs": 10}))))

    def make(terminal=True, height=12, finished=0):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=height, legacy_windows=False)
        schedule = Schedule(plan.runs, set(list(plan.runs)[:finished]))
        return ProgressDisplay(plan, schedule, Store(tmp_path), console)

    yield SimpleNamespace(make=make, plan=plan, root=tmp_path)
    for held in list(claim.HELD.values()):
        held.release()


def start(show, count):
    """Start so many runs."""
    for _ in range(count):
        key = show.schedule.take()
        show.started(show.plan.runs[key])


def tell(root, key, *, claimed=True, **progress):
    """Write how far a run is; this process works on it."""
    if claimed and RunFolder(root, key).path not in claim.HELD:
        claim.take(RunFolder(root, key).path)
    known = {"stage": "training", "epoch": 0, "epochs": 10, "host": "node7", "pid": 12, "time": time.time()}
    write_json(RunFolder(root, key).progress, known | progress)


def lines(show):
    """What the bars look like now."""
    console = Console(width=100, file=io.StringIO())
    console.print(show.bars.get_renderable())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_bars_say_how_far_each_run_is(watched):
    with watched.make(finished=1) as show:
        start(show, 3)
        first, second, third = (key for key in watched.plan.runs if key in show.schedule.running)
        tell(watched.root, first, epoch=4, pace=20.0)
        tell(watched.root, second, stage="evaluating", epoch=10, pace=10.0)
        tell(watched.root, third, stage="starting")
        show.tick()
        total, *bars = lines(show)
        # 6 epochs of the first, 10 of the third and of four others, at the mean of 15 s; three runs at once
        assert total.startswith("1 of 8 finished, 3 running, about 5 min left"), (6 + 10 + 40) * 15 / 3
        assert bars[0].endswith("epoch 4 of 10, 2 min left")
        assert bars[1].endswith("evaluating") and bars[2].endswith("starting")
        assert show.mirror.sent == [(first, True), (second, True)], "those with an epoch done"


def test_bars_fit_into_the_terminal(watched):
    with watched.make(height=5) as show:
        start(show, 7)
        for key in show.schedule.running:
            tell(watched.root, key, epoch=1)
        show.tick()
        shown = lines(show)
        assert len(shown) == 4
        assert shown[0].startswith("0 of 8 finished, 7 running (4 not shown)")
        first = next(iter(show.since))
        show.schedule.end(first, Outcome("finished"))
        show.ended(watched.plan.runs[first], Outcome("finished"))
        assert len(lines(show)) == 4, "another one has its place"
        assert lines(show)[0].startswith("1 of 8 finished, 6 running (3 not shown)")


def test_runs_of_another_driver_are_shown_as_such(watched, monkeypatch):
    monkeypatch.setattr(watch, "ELSEWHERE", 0.0)
    with watched.make() as show:
        start(show, 1)
        *_, other, stopped = watched.plan.runs
        tell(watched.root, stopped, claimed=False, epoch=3)
        with RunFolder(watched.root, other).claim("waiting"):
            tell(watched.root, other, epoch=2)
            show.tick()
            total, _, there = lines(show)
            assert total.startswith("0 of 8 finished, 2 running, 1 elsewhere")
            assert there.strip().startswith(str(watched.plan.runs[other].run)[:40])
            assert there.endswith("then no epoch yet · node7:12")
        show.tick()
        assert lines(show)[0].startswith("0 of 8 finished, 1 running") and len(lines(show)) == 2


def test_elsewhere_a_line_a_run_and_seldom_one_about_all(watched, monkeypatch):
    monkeypatch.setattr(watch, "PRINTED", 0.0)
    with watched.make(terminal=False) as show:
        start(show, 2)
        first, second = show.since
        monkeypatch.setattr(watch, "PRINTED", 1000.0)
        for key, outcome in ((first, Outcome("finished")), (second, Outcome("failed", "ValueError: no"))):
            show.schedule.end(key, outcome)
            show.ended(watched.plan.runs[key], outcome)
        printed = show.console.file.getvalue().splitlines()
    name = "sgd · lenet5 · rows · seed"
    assert "0 of 8 finished, 2 running" in printed
    assert printed[-2].startswith(f"[1/8] {name} 0: finished in ")
    assert printed[-1].startswith(f"[2/8] {name} 1: failed in ") and printed[-1].endswith("s: ValueError: no")
    assert [sent for sent in show.mirror.sent if not sent[1]] == [(first, False), (second, False)]


def test_a_store_that_is_away_is_told_once_and_that_it_is_back(watched):
    with watched.make(terminal=False) as show:
        for problem in (
            "",
            "no store: refused",
            "no store: refused",
            "no store: timed out",
            "",
            "",
            "no store: refused",
        ):
            show.mirror.problem = problem
            show.tick()
        printed = show.console.file.getvalue().splitlines()
    warning = "warning: no store: refused; training goes on, and what it lacks is sent later"
    assert printed == [warning, "the tracking store takes what it is sent again", warning]


def test_a_run_that_cannot_write_stops_all(watched):
    with pytest.raises(StudyStoppedError, match="no space is left for x: free some"), watched.make() as show:
        start(show, 1)
        (key,) = show.since
        show.ended(watched.plan.runs[key], Outcome("blocked", "no space is left for x: free some"))
