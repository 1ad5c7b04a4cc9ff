"""Engines: the same results whoever computes them, and nothing stops the others."""

import json

import pytest

from harness.engines import Inline, Processes, make_engine
from harness.engines.processes import TRIES
from harness.folder import RunFolder

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
    'Kills its worker in epoch 1: as often as `times`.'
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
    'Works whenever the killed one does.'
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


def test_processes_give_the_same_bits_even_if_one_is_killed(tmp_path, plugin, write_study, run_study, read_result):
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


def test_a_run_that_always_kills_its_worker_fails_alone(tmp_path, plugin, write_study, run_study):
    mark = tmp_path / "mark"
    killer = f"killed(times=99, mark={str(mark)!r})"
    study = write_study(
        tmp_path / "s.yaml", methods=[killer, "slow", f"deep_ensemble({killer}, K=1)"], recipe={"epochs": 4}
    )
    done = run_study(study, tmp_path / "runs", Processes(2, 1), plugins=[plugin])
    assert len(mark.read_text()) == TRIES == 3
    reason = "its worker process died 3 times (killed, or out of memory)"
    found = {str(done.plan.runs[key].run.method): outcome for key, outcome in done.schedule.failed.items()}
    ensemble = next(name for name in found if name.startswith("deep_ensemble"))
    assert found.pop(ensemble)[1].endswith(f"which did not finish: {reason}")
    assert found == {killer: ("failed", reason)}, "the slow one ran beside it and is innocent"
    assert sorted(state for _, state in done.log.ends) == ["failed", "failed", "finished"]
    key = next(key for key, p in done.plan.runs.items() if str(p.run.method) == killer)
    assert json.loads(RunFolder(tmp_path / "runs", key).failure.read_text())["reason"] == reason


BROKEN = """
from methods import Method
class Broken(Method):
    def update(self, batches, optimizer):
        raise ArithmeticError("boo")
"""


def test_a_failing_method_stops_nothing_but_what_needs_it(tmp_path, write_study, run_study):
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


def test_make_engine():
    assert isinstance(make_engine("inline", 1, 2), Inline)
    made = make_engine("processes", 3, 2)
    assert isinstance(made, Processes)
    assert (made.workers, made.threads) == (3, 2)
    with pytest.raises(ValueError, match=r"unknown engine 'ray'"):
        make_engine("ray", 1, 1)
