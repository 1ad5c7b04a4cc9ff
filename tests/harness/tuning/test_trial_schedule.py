"""The schedule of trials: what was left behind goes on, what failed is tried again, several drivers share the work."""

import json
import os
import time
from dataclasses import asdict

import pytest
from optuna.trial import TrialState

from harness.engines import Inline, Processes
from harness.running.settings import Settings
from harness.store.claim import Lookout, Owner, place
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from harness.tuning import trial_schedule as tune
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_journal import end_of
from harness.tuning.trial_schedule import Trials


class Silent:
    """A `Watch` that remembers only what ended."""

    def __init__(self):
        self.ended_trials = []

    def started(self, planned):
        pass

    def ended(self, planned, outcome):
        self.ended_trials.append((planned.label, planned.number, outcome.state))

    def tick(self):
        pass


@pytest.fixture
def searches(tmp_path, write_study, npz):
    def make(*methods, plugins=(), **changes):
        held_out = [{"name": f"npz:{npz}", "validation": 15}]
        file = write_study(tmp_path / "s.yaml", datasets=held_out, methods=[*methods], **changes)
        return find_searches(load(str(file), plugins), "nll", 1000).found

    return make


def begun(*arguments):
    """Give a schedule that has a trial waiting, as a launch does."""
    trials = Trials(*arguments)
    trials.fill()
    return trials


def finish(trials, key, state="finished", value=1.0, cost=1.0):
    """End a trial as a worker would."""
    folder = RunFolder(trials.folder, trials.runs[key].key)
    write_json(folder.result, {"state": state, "value": value, "reason": "", "plain_trainings": cost})
    trials.end(key, Outcome("finished"))


def story(trials):
    return {
        search.label: [(t.number, t.state, t.params, t.values, t.intermediate_values, end_of(t)) for t in found]
        for key, search in trials.searches.items()
        for found in [trials.trials(key)]
    }


def orphan(trials, key, **changes):
    """Make the owner of a trial someone else."""
    planned = trials.runs[key]
    journal = trials.journals[planned.search]
    owner = {**journal.trials()[planned.number].user_attrs["owner"], **changes}
    journal.storage.set_trial_user_attr(journal.identity(planned.number), "owner", owner)


def test_one_search_after_the_other_and_each_until_its_budget_is_used(tmp_path, searches):
    trials = begun(searches("dropout", "swa"), tmp_path / "runs", Budget(3, 3.0))
    log = Silent()
    Inline(1).run(trials, Settings(tmp_path / "runs"), log)
    labels = [label for label, _, _ in log.ended_trials]
    assert labels[:3] == ["dropout"] * 3
    assert set(labels[3:]) == {"swa"}
    assert labels.count("swa") >= 2
    assert all(trials.complete(key) for key in trials.searches)
    told = story(trials)
    again = begun(searches("dropout", "swa"), tmp_path / "runs", Budget(3, 3.0))
    assert story(again) == told
    assert (again.take(), list(again.waiting)) == (None, [])
    more = begun(searches("dropout"), tmp_path / "runs", Budget(4, 4.0))
    Inline(1).run(more, Settings(tmp_path / "runs"), log)
    assert story(more)["dropout"][:3] == told["dropout"], "a larger budget goes on from there"
    assert sum(end["state"] != "refused" for *_, end in story(more)["dropout"]) == 4


def test_several_workers_share_out_the_searches_first(tmp_path, searches):
    trials = begun(searches("dropout", "swa", "snapshot(M=2)"), tmp_path / "runs", Budget(3, 3.0))
    taken = [trials.runs[trials.take()].label for _ in range(5)]
    assert taken == ["dropout", "swa", "snapshot(M=2)", "dropout", "swa"]


def test_two_processes_find_what_one_does_where_trials_do_not_depend_on_each_other(tmp_path, searches):
    """The first trials are drawn at random: here all of them."""
    kinds = ("dropout", "batch_ensemble(K=2)")
    one = begun(searches(*kinds), tmp_path / "one", Budget(2, 9.0))
    Inline(1).run(one, Settings(tmp_path / "one"), Silent())
    two = begun(searches(*kinds), tmp_path / "two", Budget(2, 9.0))
    Processes(2, 1).run(two, Settings(tmp_path / "two"), Silent())
    values = {label: [(n, params) for n, _, params, *_ in found] for label, found in story(one).items()}
    assert {label: [(n, params) for n, _, params, *_ in found] for label, found in story(two).items()} == values
    first = {label: found[0] for label, found in story(one).items()}
    assert {label: found[0] for label, found in story(two).items()} == first


def test_what_a_dead_driver_left_behind_goes_on_with_its_number(tmp_path, searches):
    first = begun(searches("dropout"), tmp_path, Budget(3, 3.0))
    key = first.take()
    orphan(first, key, process=2**22 + 1, started=None)
    second = begun(searches("dropout"), tmp_path, Budget(3, 3.0))
    assert second.take() == key
    owner = second.trials(second.runs[key].search)[0].user_attrs["owner"]
    assert owner["process"] == os.getpid(), "it is this driver's now"
    assert len(second.trials(second.runs[key].search)) == 1


def test_what_another_driver_works_on_is_left_to_it(tmp_path, searches):
    first = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    key = first.take()
    second = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    other = second.take()
    assert (second.runs[other].number, second.by_other_drivers(), first.by_other_drivers()) == (1, 1, 1)
    assert second.take() is None
    assert not second.complete(second.runs[other].search)
    finish(second, other)
    assert second.take() is None
    finish(first, key)
    assert second.by_other_drivers() == 0
    assert second.complete(second.runs[other].search)
    assert [t.state for t in second.trials(second.runs[other].search)] == [TrialState.COMPLETE] * 2


def claim_elsewhere(trials, key):
    """Claim a trial as a process of another machine would, long ago: give the file of the claim."""
    folder = RunFolder(trials.folder, key).path
    owner = Owner("elsewhere", "another machine", 7, 1, "econ tune", 0.0, "token")
    assert place(folder, 1, json.dumps(asdict(owner)))
    return folder / "claim.1"


def test_a_trial_of_another_machine_is_taken_over_once_its_claim_is_silent(tmp_path, searches):
    first = begun(searches("dropout"), tmp_path, Budget(1, 1.0))
    key = first.take()
    orphan(first, key, machine="another machine", token="x", since=0.0)
    claim = claim_elsewhere(first, key)
    second = Trials(searches("dropout"), tmp_path, Budget(1, 1.0))
    second.lookout = Lookout(silence=0.3)
    for beat in range(1, 8):
        os.utime(claim, (beat, beat))
        assert second.take() is None, "it gives signs of life"
        assert second.by_other_drivers() == 1
        time.sleep(0.1)
    deadline = time.monotonic() + 10
    while (taken := second.take()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert taken == key
    assert second.by_other_drivers() == 0
    with RunFolder(tmp_path, key).claim():
        pass  # it can be claimed, too


def test_a_trial_that_nobody_claims_is_left_to_who_began_it_for_a_while(tmp_path, searches, monkeypatch):
    """Clocks of machines differ: the time at which the other one says that it began says nothing."""
    assert tune.PATIENCE >= 60
    monkeypatch.setattr(tune, "PATIENCE", 0.3)
    first = begun(searches("dropout"), tmp_path, Budget(1, 1.0))
    key = first.take()
    orphan(first, key, machine="another machine", token="x", since=0.0)
    second = Trials(searches("dropout"), tmp_path, Budget(1, 1.0))
    assert second.take() is None
    time.sleep(0.4)
    assert second.take() == key


def test_a_trial_that_another_driver_took_over_is_its_own_now(tmp_path, searches):
    """The driver goes on with other trials, and waits for that one at the end."""
    first = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    key = first.take()
    orphan(first, key, machine="another machine", token="x")
    claim_elsewhere(first, key)
    assert first.by_other_drivers() == 0
    first.end(key, Outcome("elsewhere", "another process took it over"))
    assert first.by_other_drivers() == 1
    (other,) = first.waiting
    assert first.runs[other].number == 1
    assert first.take() == other
    finish(first, other)
    assert (first.left, first.by_other_drivers()) == (False, 1), "not over, and nothing to do but wait"


def test_an_engine_goes_on_where_the_waiting_trial_ended_elsewhere(tmp_path, searches):
    for budget, rest in ((Budget(1, 1.0), []), (Budget(2, 2.0), [1])):
        runs = tmp_path / str(budget.trials)
        first = begun(searches("dropout"), runs, budget)
        (key,) = first.waiting
        orphan(first, key, process=2**22 + 1, started=None)
        second = begun(searches("dropout"), runs, Budget(1, 1.0))
        finish(second, second.take())
        Inline(1).run(first, Settings(runs), log := Silent())
        assert [number for _, number, _ in log.ended_trials] == rest
        assert first.complete(next(iter(first.searches)))


def test_a_trial_that_another_driver_ended_is_neither_taken_nor_told_again(tmp_path, searches):
    first = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    (key,) = first.waiting
    orphan(first, key, process=2**22 + 1, started=None)
    second = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    finish(second, second.take(), value=7.0)
    assert first.take() != key, "it waited here and is finished there"
    assert second.trials(next(iter(second.searches)))[0].values == [7.0]


def test_a_trial_that_ended_is_not_told_again(tmp_path, searches):
    first = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    key = first.take()
    orphan(first, key, process=2**22 + 1, started=None)
    second = begun(searches("dropout"), tmp_path, Budget(2, 2.0))
    finish(second, second.take(), value=7.0)
    first.end(key, Outcome("failed", "late"))
    assert first.trials(first.runs[key].search)[0].values == [7.0]


BROKEN = """
from pathlib import Path
from optuna.distributions import FloatDistribution
from methods import Method
class Broken(Method):
    space = {"a": FloatDistribution(0.0, 1.0)}
    def __init__(self, make_net, recipe, *, a: float = 0.5, mark: str = ""):
        super().__init__(make_net, recipe)
        self.a, self.mark = a, mark
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if not Path(self.mark).exists() and (self.a != 0.5 or not self.mark.endswith("lenient")):
            raise OSError("the disk is full")
"""


def test_a_search_stops_where_the_studys_own_values_fail_and_the_next_launch_tries_again(tmp_path, searches):
    (tmp_path / "broken.py").write_text(BROKEN)
    mark = tmp_path / "mark"
    found = searches(f"broken(mark={str(mark)!r})", plugins=[tmp_path / "broken.py"])
    settings = Settings(tmp_path / "runs", plugins=(tmp_path / "broken.py",))
    for launch in range(2):
        trials = begun(found, tmp_path / "runs", Budget(3, 3.0))
        Inline(1).run(trials, settings, log := Silent())
        assert log.ended_trials == [(found[0].label, launch, "failed")]
    mark.touch()
    trials = begun(found, tmp_path / "runs", Budget(3, 3.0))
    Inline(1).run(trials, settings, log := Silent())
    assert [state for *_, state in log.ended_trials] == ["finished"] * 3
    told = trials.trials(found[0].key)
    assert [end_of(t)["reason"] for t in told[:2]] == ["OSError: the disk is full"] * 2
    assert [t.params["a"] for t in told[:3]] == [0.5] * 3, "the same values, with a number of their own"
    assert trials.complete(found[0].key)


def test_values_that_fail_are_no_trials_but_bounded(tmp_path, searches):
    (tmp_path / "broken.py").write_text(BROKEN)
    found = searches("broken(mark=lenient)", plugins=[tmp_path / "broken.py"])
    settings = Settings(tmp_path / "runs", plugins=(tmp_path / "broken.py",))
    trials = begun(found, tmp_path / "runs", Budget(2, 2.0))
    Inline(1).run(trials, settings, log := Silent())
    assert [state for *_, state in log.ended_trials] == ["finished"] + ["failed"] * 10
    assert Budget(2, 2.0).free == 10
    assert Budget(30, 2.0).free == 30
    assert trials.complete(found[0].key)


@pytest.mark.long
def test_a_worker_that_always_dies_fails_its_trial_and_no_other(tmp_path, searches):
    (tmp_path / "killer.py").write_text(
        BROKEN.replace("Broken", "Killer").replace(
            'raise OSError("the disk is full")', "import os; os.kill(os.getpid(), 9)"
        )
    )
    found = searches("dropout", "killer(mark=nowhere)", plugins=[tmp_path / "killer.py"])
    trials = begun(found, tmp_path / "runs", Budget(1, 1.0))
    Processes(2, 1).run(trials, Settings(tmp_path / "runs", plugins=(tmp_path / "killer.py",)), log := Silent())
    states = {label: state for label, _, state in log.ended_trials}
    assert states == {"dropout": "finished", "killer(mark=nowhere)": "failed"}
    key = next(key for key, search in trials.searches.items() if search.label.startswith("killer"))
    assert "its worker process died 3 times" in end_of(trials.trials(key)[0])["reason"]
    failure = RunFolder(tmp_path / "runs", trials.plan(trials.searches[key], trials.trials(key)[0]).key).failure
    assert json.loads(failure.read_text())["state"] == "failed"
