"""The schedule of trials: it resumes abandoned trials, retries failed ones, and several drivers share the work."""

import json
import os
import time
from dataclasses import asdict

import pytest
from optuna.trial import TrialState

from harness.engines import Inline, Processes
from harness.running.settings import Settings
from harness.store.claim import Owner, write_claim
from harness.store.claim_observer import ClaimObserver
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from harness.tuning import trial_schedule
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_journal import journal_path, trial_end
from harness.tuning.trial_schedule import TrialSchedule
from tests.harness.made_up import made_up_result


class EndRecorder:
    """A `RunObserver` that records only how trials ended."""

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
        return find_searches(load(str(file), plugins), "nll", 1000).searches

    return make


def make_schedule(*arguments):
    """Make a schedule with a waiting trial, as a launch does."""
    trials = TrialSchedule(*arguments)
    trials.ensure_waiting()
    return trials


def finish(trials, key, state="finished", value=1.0, cost=1.0):
    """Write the result of a trial and end it, as a worker would."""
    folder = RunFolder(trials.folder, trials.runs[key].key)
    end = {"state": state, "value": value, "reason": "", "plain_trainings": cost}
    write_json(folder.result, made_up_result(key, **end))
    trials.end(key, Outcome("finished"))


def history(trials):
    """Return everything that the journals have of the trials, by label."""
    return {
        search.label: [(t.number, t.state, t.params, t.values, t.intermediate_values, trial_end(t)) for t in found]
        for key, search in trials.searches.items()
        for found in [trials.trials(key)]
    }


def change_owner(trials, key, **changes):
    """Change the recorded owner of a trial."""
    planned = trials.runs[key]
    journal = trials.journals[planned.search]
    owner = {**journal.trials()[planned.number].user_attrs["owner"], **changes}
    journal.storage.set_trial_user_attr(journal.storage_id(planned.number), "owner", owner)


def test_a_single_worker_finishes_one_search_after_the_other(tmp_path, searches):
    trials = make_schedule(searches("dropout", "swa"), tmp_path / "runs", Budget(3, 3.0))
    log = EndRecorder()
    Inline(1).run(trials, Settings(tmp_path / "runs"), log)
    labels = [label for label, _, _ in log.ended_trials]
    assert labels[:3] == ["dropout"] * 3
    assert set(labels[3:]) == {"swa"}
    assert labels.count("swa") >= 2
    assert all(trials.is_complete(key) for key in trials.searches)
    told = history(trials)
    again = make_schedule(searches("dropout", "swa"), tmp_path / "runs", Budget(3, 3.0))
    assert history(again) == told
    assert (again.take(), list(again.waiting)) == (None, [])
    more = make_schedule(searches("dropout"), tmp_path / "runs", Budget(4, 4.0))
    Inline(1).run(more, Settings(tmp_path / "runs"), log)
    assert history(more)["dropout"][:3] == told["dropout"], "a larger budget continues from there"
    assert sum(end["state"] != "refused" for *_, end in history(more)["dropout"]) == 4


def test_several_workers_are_spread_over_the_searches(tmp_path, searches):
    trials = make_schedule(searches("dropout", "swa", "snapshot(M=2)"), tmp_path / "runs", Budget(3, 3.0))
    taken = [trials.runs[trials.take()].label for _ in range(5)]
    assert taken == ["dropout", "swa", "snapshot(M=2)", "dropout", "swa"]


@pytest.mark.long
def test_two_processes_give_the_trials_of_one_if_trials_are_independent(tmp_path, searches):
    """The first trials are drawn at random. Here these are all of them."""
    kinds = ("dropout", "batch_ensemble(K=2)")
    one = make_schedule(searches(*kinds), tmp_path / "one", Budget(2, 9.0))
    Inline(1).run(one, Settings(tmp_path / "one"), EndRecorder())
    two = make_schedule(searches(*kinds), tmp_path / "two", Budget(2, 9.0))
    Processes(2, 1).run(two, Settings(tmp_path / "two"), EndRecorder())
    values = {label: [(n, params) for n, _, params, *_ in found] for label, found in history(one).items()}
    assert {label: [(n, params) for n, _, params, *_ in found] for label, found in history(two).items()} == values
    first = {label: found[0] for label, found in history(one).items()}
    assert {label: found[0] for label, found in history(two).items()} == first


def test_a_trial_of_a_dead_driver_is_resumed_with_its_number(tmp_path, searches):
    first = make_schedule(searches("dropout"), tmp_path, Budget(3, 3.0))
    key = first.take()
    change_owner(first, key, process=2**22 + 1, started=None)
    second = make_schedule(searches("dropout"), tmp_path, Budget(3, 3.0))
    assert second.take() == key
    owner = second.trials(second.runs[key].search)[0].user_attrs["owner"]
    assert owner["process"] == os.getpid(), "this driver owns it now"
    assert len(second.trials(second.runs[key].search)) == 1


def test_a_running_trial_of_another_driver_is_not_taken(tmp_path, searches):
    first = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
    key = first.take()
    second = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
    other = second.take()
    assert (second.runs[other].number, second.count_on_other_drivers(), first.count_on_other_drivers()) == (1, 1, 1)
    assert second.take() is None
    assert not second.is_complete(second.runs[other].search)
    finish(second, other)
    assert second.take() is None
    finish(first, key)
    assert second.count_on_other_drivers() == 0
    assert second.is_complete(second.runs[other].search)
    assert [t.state for t in second.trials(second.runs[other].search)] == [TrialState.COMPLETE] * 2


def claim_elsewhere(trials, key):
    """Claim a trial as a process of another machine, long ago. Return the file of the claim."""
    folder = RunFolder(trials.folder, key).path
    owner = Owner("elsewhere", "another machine", 7, 1, "econ tune", 0.0, "token")
    assert write_claim(folder, 1, json.dumps(asdict(owner)))
    return folder / "claim.1"


def test_a_trial_of_another_machine_is_taken_over_once_its_claim_is_silent(tmp_path, searches):
    first = make_schedule(searches("dropout"), tmp_path, Budget(1, 1.0))
    key = first.take()
    change_owner(first, key, machine="another machine", token="x", since=0.0)
    claim = claim_elsewhere(first, key)
    second = TrialSchedule(searches("dropout"), tmp_path, Budget(1, 1.0))
    second.claim_observer = ClaimObserver(timeout=0.3)
    for beat in range(1, 8):
        os.utime(claim, (beat, beat))
        assert second.take() is None, "its claim changes"
        assert second.count_on_other_drivers() == 1
        time.sleep(0.1)
    deadline = time.monotonic() + 10
    while (taken := second.take()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert taken == key
    assert second.count_on_other_drivers() == 0
    with RunFolder(tmp_path, key).claim():
        pass  # and it can be claimed


def test_an_unclaimed_trial_is_taken_over_only_after_a_timeout(tmp_path, searches, monkeypatch):
    """Clocks of machines differ, so the recorded start time of the other machine is not used."""
    assert trial_schedule.START_TIMEOUT >= 60
    monkeypatch.setattr(trial_schedule, "START_TIMEOUT", 0.3)
    first = make_schedule(searches("dropout"), tmp_path, Budget(1, 1.0))
    key = first.take()
    change_owner(first, key, machine="another machine", token="x", since=0.0)
    second = TrialSchedule(searches("dropout"), tmp_path, Budget(1, 1.0))
    assert second.take() is None
    time.sleep(0.4)
    assert second.take() == key


def test_a_trial_that_another_driver_took_over_is_left_to_it(tmp_path, searches):
    """The driver continues with other trials, and waits for that trial at the end."""
    first = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
    key = first.take()
    change_owner(first, key, machine="another machine", token="x")
    claim_elsewhere(first, key)
    assert first.count_on_other_drivers() == 0
    first.end(key, Outcome("elsewhere", "another process took it over"))
    assert first.count_on_other_drivers() == 1
    (other,) = first.waiting
    assert first.runs[other].number == 1
    assert first.take() == other
    finish(first, other)
    assert (first.left, first.count_on_other_drivers()) == (False, 1), (
        "the search is not over, and nothing is left to do but wait"
    )


def test_an_engine_continues_if_another_driver_ended_the_waiting_trial(tmp_path, searches):
    for budget, rest in ((Budget(1, 1.0), []), (Budget(2, 2.0), [1])):
        runs = tmp_path / str(budget.trials)
        first = make_schedule(searches("dropout"), runs, budget)
        (key,) = first.waiting
        change_owner(first, key, process=2**22 + 1, started=None)
        second = make_schedule(searches("dropout"), runs, Budget(1, 1.0))
        finish(second, second.take())
        Inline(1).run(first, Settings(runs), log := EndRecorder())
        assert [number for _, number, _ in log.ended_trials] == rest
        assert first.is_complete(next(iter(first.searches)))


def test_a_trial_that_another_driver_ended_is_not_taken(tmp_path, searches):
    first = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
    (key,) = first.waiting
    change_owner(first, key, process=2**22 + 1, started=None)
    second = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
    finish(second, second.take(), value=7.0)
    assert first.take() != key, "another driver has finished it"
    assert second.trials(next(iter(second.searches)))[0].values == [7.0]


def test_the_end_of_a_trial_is_recorded_once(tmp_path, searches):
    first = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
    key = first.take()
    change_owner(first, key, process=2**22 + 1, started=None)
    second = make_schedule(searches("dropout"), tmp_path, Budget(2, 2.0))
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


def test_a_search_stops_if_the_studys_own_values_fail_and_the_next_launch_retries_them(tmp_path, searches):
    (tmp_path / "broken.py").write_text(BROKEN)
    mark = tmp_path / "mark"
    found = searches(f"broken(mark={str(mark)!r})", plugins=[tmp_path / "broken.py"])
    settings = Settings(tmp_path / "runs", plugins=(tmp_path / "broken.py",))
    for launch in range(2):
        trials = make_schedule(found, tmp_path / "runs", Budget(3, 3.0))
        Inline(1).run(trials, settings, log := EndRecorder())
        assert log.ended_trials == [(found[0].label, launch, "failed")]
    mark.touch()
    trials = make_schedule(found, tmp_path / "runs", Budget(3, 3.0))
    Inline(1).run(trials, settings, log := EndRecorder())
    assert [state for *_, state in log.ended_trials] == ["finished"] * 3
    told = trials.trials(found[0].key)
    assert [trial_end(t)["reason"] for t in told[:2]] == ["OSError: the disk is full"] * 2
    assert [t.params["a"] for t in told[:3]] == [0.5] * 3, "the same values, with new numbers"
    assert trials.is_complete(found[0].key)


def test_failed_trials_do_not_count_but_their_number_is_limited(tmp_path, searches):
    (tmp_path / "broken.py").write_text(BROKEN)
    found = searches("broken(mark=lenient)", plugins=[tmp_path / "broken.py"])
    settings = Settings(tmp_path / "runs", plugins=(tmp_path / "broken.py",))
    trials = make_schedule(found, tmp_path / "runs", Budget(2, 2.0))
    Inline(1).run(trials, settings, log := EndRecorder())
    assert [state for *_, state in log.ended_trials] == ["finished"] + ["failed"] * 10
    assert Budget(2, 2.0).max_uncounted == 10
    assert Budget(30, 2.0).max_uncounted == 30
    assert trials.is_complete(found[0].key)


@pytest.mark.long
def test_a_trial_that_always_kills_its_worker_fails_and_others_do_not(tmp_path, searches):
    (tmp_path / "killer.py").write_text(
        BROKEN.replace("Broken", "Killer").replace(
            'raise OSError("the disk is full")', "import os; os.kill(os.getpid(), 9)"
        )
    )
    found = searches("dropout", "killer(mark=nowhere)", plugins=[tmp_path / "killer.py"])
    trials = make_schedule(found, tmp_path / "runs", Budget(1, 1.0))
    Processes(2, 1).run(trials, Settings(tmp_path / "runs", plugins=(tmp_path / "killer.py",)), log := EndRecorder())
    states = {label: state for label, _, state in log.ended_trials}
    assert states == {"dropout": "finished", "killer(mark=nowhere)": "failed"}
    key = next(key for key, search in trials.searches.items() if search.label.startswith("killer"))
    assert "its worker process died 3 times" in trial_end(trials.trials(key)[0])["reason"]
    failure = RunFolder(tmp_path / "runs", trials.plan_trial(trials.searches[key], trials.trials(key)[0]).key).failure
    assert json.loads(failure.read_text())["state"] == "failed"


def test_a_damaged_journal_stops_its_search_alone(searches, tmp_path):
    damaged, sound = searches("dropout", "late_phase_bn(K=2, start=1)")
    journal_path(tmp_path, damaged.key).parent.mkdir(parents=True)
    journal_path(tmp_path, damaged.key).write_bytes(b"\xff\n")
    trials = make_schedule([damaged, sound], tmp_path, Budget(2, 9.0))
    assert list(trials.searches) == [sound.key] and trials.waiting
    assert trials.damaged.keys() == {str(damaged)}
    assert "journal.log: line 1 is damaged" in trials.damaged[str(damaged)]
