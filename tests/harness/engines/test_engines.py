"""Engines: all give the same results, and a run that fails does not stop others."""

import json
import time
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import ClassVar

import pytest

from harness.engines import Inline, Processes, make_engine, processes
from harness.engines.processes import WorkerProcess
from harness.engines.retry_queue import MAX_ATTEMPTS
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.running.settings import Settings
from harness.store.outcome import ALREADY_FINISHED, Outcome
from harness.store.run_folder import RunFolder
from harness.studies.study import load
from tests.harness.conftest import EventLog

METHODS = ["sgd", "swa(late_phase_bn(K=2, start=1), start=2)", "mc_dropout(K=2)", "deep_ensemble(K=2)"]


def test_inline(tmp_path, write_study, run_study):
    done = run_study(write_study(tmp_path / "s.yaml", methods=METHODS), tmp_path / "runs", Inline(1))
    assert done.log.starts == ["sgd", METHODS[1], "mc_dropout(K=2)", "sgd", "deep_ensemble(K=2)"]
    assert done.log.ends == [(name, "finished") for name in done.log.starts]
    assert done.log.ticks == 3 * 4, "once an epoch"


KILLED = """
import os, signal, time
from pathlib import Path
from methods import Method

class Killed(Method):
    'Kills its worker in epoch 1, `times` times.'
    def __init__(self, make_net, recipe, *, times: int = 1, mark: str = ""):
        super().__init__(make_net, recipe)
        self.times, self.mark = times, Path(mark)
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 1:
            with self.mark.open("a") as file:
                file.write("x")
            if len(self.mark.read_text()) <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)

class Slow(Method):
    'Takes its time, so that it runs while the killed one does.'
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        time.sleep(0.4)

METHODS = {"killed": Killed, "slow": Slow}
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "killers.py"
    path.write_text(KILLED)
    return path


@pytest.mark.long
def test_processes_give_the_same_bits_as_inline_even_if_one_is_killed(
    tmp_path, plugin, write_study, run_study, read_result
):
    mark = tmp_path / "mark"
    killed = f"killed(times=1, mark={str(mark)!r})"
    study = write_study(tmp_path / "s.yaml", methods=[*METHODS, killed])
    done = run_study(study, tmp_path / "runs", Processes(2, 1), plugins=[plugin])
    assert done.schedule.failed == {}
    assert done.schedule.finished == set(done.plan.runs)
    assert mark.read_text() == "xx"
    names = [str(planned.run.method) for planned in done.plan.runs.values()]
    assert sorted(done.log.ends) == sorted((name, "finished") for name in names)
    assert set(done.log.starts) == set(names)
    assert sum(name.startswith("killed") for name in done.log.starts) == 2
    whole = run_study(study, tmp_path / "whole", Inline(1), plugins=[plugin])
    for key in whole.plan.runs:
        assert read_result(tmp_path / "runs", key) == read_result(tmp_path / "whole", key), whole.plan.runs[key].run


@pytest.mark.long
def test_a_run_that_always_kills_its_worker_fails_and_others_do_not(tmp_path, plugin, write_study, run_study):
    mark = tmp_path / "mark"
    killer = f"killed(times=99, mark={str(mark)!r})"
    study = write_study(
        tmp_path / "s.yaml", methods=[killer, "slow", f"deep_ensemble({killer}, K=1)"], recipe={"epochs": 4}
    )
    done = run_study(study, tmp_path / "runs", Processes(2, 1), plugins=[plugin])
    assert len(mark.read_text()) == MAX_ATTEMPTS == 3
    reason = "its worker process died 3 times (killed, or out of memory)"
    found = {str(done.plan.runs[key].run.method): outcome for key, outcome in done.schedule.failed.items()}
    ensemble = next(name for name in found if name.startswith("deep_ensemble"))
    assert found.pop(ensemble)[1].endswith(f"which did not finish: {reason}")
    assert found == {killer: ("failed", reason)}, "the slow run, at the same time, does not fail"
    assert sorted(state for _, state in done.log.ends) == ["failed", "failed", "finished"]
    key = next(key for key, p in done.plan.runs.items() if str(p.run.method) == killer)
    assert json.loads(RunFolder(tmp_path / "runs", key).failure.read_text())["reason"] == reason


BROKEN = """
from methods import Method
class Broken(Method):
    def update(self, batches, optimizer):
        raise ArithmeticError("boo")
"""


def test_a_failing_method_stops_only_the_runs_that_need_it(tmp_path, write_study, run_study):
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    study = write_study(tmp_path / "s.yaml", methods=["broken", "deep_ensemble(broken, K=2)", "sgd"])
    done = run_study(study, tmp_path / "runs", Inline(1), plugins=[plugin])
    ensemble = "deep_ensemble(broken, K=2)"
    ends = [("broken", "failed"), ("broken", "failed"), (ensemble, "failed"), ("sgd", "finished")]
    assert sorted(done.log.ends) == ends
    first = next(key for key, p in done.plan.runs.items() if str(p.run) == "broken · lenet5 · rows · seed 0")
    found = {str(done.plan.runs[key].run): tuple(outcome) for key, outcome in done.schedule.failed.items()}
    assert found == {
        "broken · lenet5 · rows · seed 0": ("failed", "ArithmeticError: boo"),
        "broken · lenet5 · rows · seed 1": ("failed", "ArithmeticError: boo"),
        "deep_ensemble(broken, K=2) · lenet5 · rows · seed 0": (
            "failed",
            f"it needs the run {first[:12]}, which did not finish: ArithmeticError: boo",
        ),
    }
    again = run_study(study, tmp_path / "runs", Inline(1), plugins=[plugin])
    assert sorted(again.log.starts) == ["broken", "broken", ensemble], (
        "failed runs are tried again, finished ones are not"
    )


class ScriptedWorker:
    """Replaces a worker process: records the runs it is given, and ends them as the script of the test says."""

    script: ClassVar[dict[str, list[str]]] = {}
    given: ClassVar[list[tuple[str, str, bool, int]]] = []
    pending: ClassVar[list[tuple[Future, str, str]]] = []

    def __init__(self, device, threads):
        self.device, self.stops = device, 0

    def submit(self, planned, settings):
        assert settings.device == self.device
        name, future = planned.label, Future()
        self.given.append(
            (name, self.device, settings.alone, sum(device == self.device for *_, device in self.pending))
        )
        self.pending.append((future, name, self.device))
        return future

    def stop(self):
        self.stops += 1

    @classmethod
    def step(cls):
        """End the run that started first, as its script says."""
        future, name, _ = cls.pending.pop(0)
        left = cls.script.get(name, [])
        state = left.pop(0) if left else "finished"
        future.set_exception(BrokenProcessPool()) if state == "dies" else future.set_result(Outcome(state, ""))


@pytest.fixture
def scripted(monkeypatch, tmp_path, write_study):
    """Return a function that executes eight scripted runs on slots, and returns what the workers were given."""

    def run(script, devices):
        monkeypatch.setattr(processes, "WorkerProcess", ScriptedWorker)
        monkeypatch.setattr(ScriptedWorker, "script", script)
        monkeypatch.setattr(ScriptedWorker, "given", [])
        monkeypatch.setattr(ScriptedWorker, "pending", [])
        monkeypatch.setattr(
            processes, "wait", lambda working, **_: (ScriptedWorker.step(), wait(working, timeout=0))[1]
        )
        methods = [{f"run {i}": f"mc_dropout(K={i + 2})"} for i in range(8)]
        plan = Plan(load(str(write_study(tmp_path / "s.yaml", methods=methods))))
        schedule = Schedule(plan.runs, set())
        Processes(0, 1, devices).run(schedule, Settings(tmp_path / "runs"), EventLog())
        return ScriptedWorker.given, schedule

    return run


def test_runs_use_the_devices_of_their_slots(scripted):
    given, schedule = scripted({}, ["cpu:0", "cpu:1", "cpu:1"])
    assert [device for _, device, _, _ in given[:3]] == ["cpu:0", "cpu:1", "cpu:1"]
    assert sorted(name for name, *_ in given) == [f"run {i}" for i in range(8)]
    assert not any(alone for _, _, alone, _ in given)
    assert len(schedule.finished) == 8


def test_other_devices_take_runs_while_a_run_waits_for_its_device(scripted):
    """Two devices have two slots each, runs end in the order in which they began, and the first is out of memory."""
    given, schedule = scripted({"run 0": ["out of memory"]}, ["cpu:0", "cpu:1", "cpu:0", "cpu:1"])
    assert given[:4] == [("run 0", "cpu:0", False, 0), ("run 1", "cpu:1", False, 0), *given[2:4]]
    again = next(i for i, (name, _, alone, _) in enumerate(given) if name == "run 0" and alone)
    assert given[again] == ("run 0", "cpu:0", True, 0), "its device had no other run"
    between = given[4:again]
    assert between and all(device == "cpu:1" for _, device, _, _ in between)
    assert len(given) == 9
    assert schedule.failed == {}
    assert len(schedule.finished) == 8


def test_a_run_that_is_out_of_memory_alone_fails(scripted):
    given, schedule = scripted({"run 0": ["out of memory", "failed"]}, ["cpu", "cpu"])
    assert [alone for name, _, alone, _ in given if name == "run 0"] == [False, True]
    assert [outcome.state for outcome in schedule.failed.values()] == ["failed"]


def test_a_run_whose_worker_dies_has_three_attempts_the_last_one_alone(scripted):
    given, schedule = scripted({"run 0": ["dies"] * 3, "run 1": ["dies"]}, ["cpu", "cpu"])
    assert [alone for name, _, alone, _ in given if name == "run 0"] == [False, False, True]
    assert [alone for name, _, alone, _ in given if name == "run 1"] == [False, False]
    (outcome,) = schedule.failed.values()
    assert outcome == ("failed", "its worker process died 3 times (killed, or out of memory)")
    assert len(given) == 8 + 2 + 1


@pytest.mark.long
def test_an_idle_worker_that_died_is_replaced(tmp_path, write_study, run_study):
    done = run_study(write_study(tmp_path / "s.yaml"), tmp_path / "runs")
    (planned,) = done.plan.runs.values()
    worker = WorkerProcess("cpu", 1)
    try:
        assert worker.submit(planned, done.settings).result(timeout=120) == ("finished", ALREADY_FINISHED)
        (process,) = worker.pool._processes.values()
        process.kill()
        process.join()
        while not worker.pool._broken:
            time.sleep(0.01)
        assert worker.submit(planned, done.settings).result(timeout=120) == ("finished", ALREADY_FINISHED)
    finally:
        worker.stop()


def test_runs_that_can_never_start_are_named(tmp_path, write_study, run_study):
    plan = Plan(load(str(write_study(tmp_path / "s.yaml", methods=["deep_ensemble(K=2)"]))))
    schedule = Schedule({key: planned for key, planned in plan.runs.items() if planned.needs}, set())
    with pytest.raises(RuntimeError, match=r"neither finished nor part of the plan: deep_ensemble\(K=2\) · lenet5"):
        Inline(1).run(schedule, Settings(tmp_path / "runs"), EventLog())


def test_an_observer_that_fails_does_not_fail_the_run(tmp_path, write_study, run_study):
    class BrokenObserver(EventLog):
        def tick(self):
            raise ZeroDivisionError("a defect of the observer")

    study = write_study(tmp_path / "s.yaml", methods=["sgd"])
    with pytest.raises(ZeroDivisionError, match="a defect of the observer"):
        run_study(study, tmp_path / "runs", Inline(1), BrokenObserver())
    assert not list((tmp_path / "runs").glob("*/failure.json"))
    assert run_study(study, tmp_path / "runs", Inline(1)).log.ends == [("sgd", "finished")]


def test_make_engine():
    assert isinstance(make_engine("inline", 1, 2), Inline)
    made = make_engine("processes", 3, 2)
    assert isinstance(made, Processes)
    assert (made.workers, made.threads, made.devices) == (3, 2, ())
    assert make_engine("processes", 2, 1, ["cuda:0", "cuda:3"]).devices == ("cuda:0", "cuda:3")
    with pytest.raises(ValueError, match=r"unknown engine 'slurm'"):
        make_engine("slurm", 1, 1)
