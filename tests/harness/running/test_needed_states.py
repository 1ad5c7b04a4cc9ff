"""Runs that start from states of others: what they receive, what they cost, and what happens if a state is lost."""

import json

import pytest
import torch

import methods
from harness.costs.cost import Cost
from harness.costs.parameters import parameters_trained
from harness.engines import Inline
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.planning.trunk_storage import limit_trunk_storage, needed_trunks
from harness.running.execute import execute
from harness.running.result import add_costs, own_cost, parameters_trained_in_trunk
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from methods import SGD, LatePhaseBatchNorm, Recipe
from methods.core.forking import training_source
from tests.conftest import build
from tests.harness.conftest import N_TRAIN, EventLog
from tests.harness.running.test_training import StopError, stop_after
from tests.harness.tails import Tail, TailOfMany

STEPS = 4
"""Steps of an epoch."""
SOUP = "deep_ensemble(tail, K=2)"


@pytest.fixture(autouse=True)
def tail(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "tail", Tail)
    monkeypatch.setitem(methods.METHODS, "tail_of_many", TailOfMany)


@pytest.fixture
def run_methods(tmp_path, write_study, run_study):
    """Return a function that runs a study of some methods, and returns its planned runs and their results."""

    def run(*names, folder="runs", share=False, **changes):
        done = run_study(
            write_study(tmp_path / "s.yaml", methods=list(names), **changes), tmp_path / folder, share=share
        )
        return done, [read(tmp_path / folder, key) for key in done.plan.runs]

    return run


def read(runs, key):
    path = RunFolder(runs, key).result
    return json.loads(path.read_text()) if path.exists() else None


def state_of(runs, key):
    return torch.load(RunFolder(runs, key).checkpoint)["method"]


def epochs_of(result, kind="cost"):
    """Return how many epochs a run cost, from the three numbers that count them."""
    cost = result[kind]
    assert cost["forward_examples"] == cost["backward_examples"] == cost["optimizer_steps"] / STEPS * N_TRAIN
    return cost["forward_examples"] / N_TRAIN


@pytest.mark.parametrize("share", [False, True])
def test_an_ensemble_of_tails_costs_their_common_beginning_once(run_methods, share):
    done, (state, one, other, ensemble) = run_methods(SOUP, share=share)
    assert done.log.ends == [(name, "finished") for name in ("trunk", "tail", "tail", SOUP)]
    assert [epochs_of(result) for result in (state, one, other, ensemble)] == [2, 2 + 3, 2 + 3, 2 + 2 * 3]
    assert [epochs_of(result, "spent") for result in (state, one, other, ensemble)] == [2, 3, 3, 0]
    P = state["cost"]["parameters_trained"]
    assert P > 0
    assert [result["cost"]["parameters_trained"] for result in (one, other, ensemble)] == [2 * P, 2 * P, 3 * P]
    spent = [result["timing"]["spent/train_seconds"] for result in (state, one, other, ensemble)]
    assert ensemble["timing"]["cost/train_seconds"] == pytest.approx(sum(spent))
    assert one["timing"]["cost/train_seconds"] == pytest.approx(sum(spent[:2]))
    assert "cost_by_run" not in state
    assert list(one["cost_by_run"]) == [state["key"], one["key"]]
    assert set(ensemble["cost_by_run"]) == set(done.plan.runs)


def test_finished_runs_and_states_of_states_count_once_too(run_methods):
    *_, ensemble = run_methods("deep_ensemble(tail(after=None), K=2)")[1]
    assert epochs_of(ensemble) == 3 + 2 * 3
    *_, nested = run_methods("deep_ensemble(tail(tail, after=1), K=2)")[1]
    assert epochs_of(nested) == 2 + 1 + 2 * 3


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("tail_of_many(also='0')", 3 + 3),  # the finished run passes through the state after 2 epochs
        ("tail_of_many(also='1 2')", 2 + 3),
        ("tail_of_many(swa(start=2), also='1 3')", 3 + 3),
        ("deep_ensemble(tail_of_many(also='0'), K=2)", 3 + 2 * 3),
        ("deep_ensemble(tail_of_many(tail_of_many(also='1 3'), also='0'), K=1)", 3 + 3 + 3),
    ],
)
def test_states_of_a_run_that_is_needed_too_cost_nothing_more(run_methods, name, epochs, share):
    done, (*_, last) = run_methods(name, share=share)
    assert done.schedule.failed == {}
    assert epochs_of(last) == epochs
    assert done.plan.epochs_as_written(last["key"]) == epochs


def test_costs_add_up_but_for_the_peak_memory():
    one = own_cost(Cost(1, 2, 3, 0.5, peak_memory_bytes=9), 5)
    other, unmeasured = own_cost(Cost(10, 20, 30, 0.25, peak_memory_bytes=7), 50), own_cost(Cost(100), 500)
    assert "peak_memory_bytes" not in unmeasured
    assert add_costs([one, other, unmeasured]) == (Cost(111, 22, 33, 0.75, peak_memory_bytes=9), 555)


def test_a_trunk_trains_the_same_parameters_whichever_method_trains_it():
    recipe = Recipe(epochs=4)
    plain, late = build(SGD, recipe), build(LatePhaseBatchNorm, recipe, K=3, start=2)
    counts = [parameters_trained_in_trunk(training_source(method, epoch)) for method, epoch in ((plain, 1), (late, 1))]
    assert counts == 2 * [parameters_trained(plain)]
    assert parameters_trained_in_trunk(training_source(late, 2)) == parameters_trained(late) > counts[0]


def test_a_state_of_training_that_watches_test_data_marks_what_starts_from_it(run_methods):
    _, results = run_methods("deep_ensemble(tail(early_stopping(criterion=test)), K=1)", "tail")
    assert [result.get("chosen_on") for result in results] == ["test", "test", "test", None, None]


def test_results_of_earlier_versions_are_added_up_as_before(run_methods, tmp_path):
    _, (_, *tails, ensemble) = run_methods(SOUP)
    for tail in tails:
        del tail["cost_by_run"]
        write_json(RunFolder(tmp_path / "runs", tail["key"]).result, tail)
    RunFolder(tmp_path / "runs", ensemble["key"]).result.unlink()
    *_, ensemble = run_methods(SOUP)[1]
    assert epochs_of(ensemble) == 2 * (2 + 3)
    P = tails[0]["cost"]["parameters_trained"] / 2
    assert ensemble["cost"]["parameters_trained"] == 4 * P


def test_the_state_is_that_of_plain_training_stopped_there(run_methods, make_run, tmp_path):
    done, _ = run_methods("tail")
    plain = make_run("sgd", seed=1000)
    with pytest.raises(StopError):
        execute(plain, Settings(tmp_path / "plain", checkpoint_seconds=0), [], stop_after(2))
    found, stopped = state_of(tmp_path / "runs", next(iter(done.plan.runs))), state_of(tmp_path / "plain", plain.key)
    assert found.keys() == stopped.keys()
    assert {name for name in found if not name.startswith("net.")} == {"_extra_state"}
    assert all(torch.equal(found[name], stopped[name]) for name in found if name != "_extra_state")


def test_a_state_after_all_epochs_is_not_prepared(run_methods, tmp_path):
    done, (_, result) = run_methods("tail(swa(start=1), after=3)")
    assert epochs_of(result) == 3 + 3, "no pass over the data to prepare the average"
    assert done.schedule.failed == {}


def test_resumed_after_every_epoch_a_tail_has_the_same_bits(run_methods, tmp_path, read_result):
    done, _ = run_methods("tail")
    trunk, tail = done.plan.runs.values()
    pieces = Settings(tmp_path / "pieces", checkpoint_seconds=0)
    for planned, epochs in ((trunk, 2), (tail, 3)):
        for _ in range(epochs - 1):
            with pytest.raises(StopError):
                execute(planned.run, pieces, list(planned.needs), stop_after(1))
        assert execute(planned.run, pieces, list(planned.needs)) == ("finished", "")
    assert read_result(tmp_path / "pieces", tail.key) == read_result(tmp_path / "runs", tail.key)


def test_tails_that_share_a_trunk_have_the_results_of_training_alone(run_methods, tmp_path, read_result):
    names = ("tail", "tail(twin=True)", "sgd")
    shared, _ = run_methods(*names, share=True, seeds=[1000])
    alone, _ = run_methods(*names, folder="alone", seeds=[1000])
    assert [planned.epochs - planned.trunk_epochs for planned in shared.plan.runs.values()] == [2, 3, 0, 0, 1]
    for key in alone.plan.without_trunks:
        assert read_result(tmp_path / "runs", key) == read_result(tmp_path / "alone", key)


def test_a_state_that_was_removed_is_trained_again(run_methods, tmp_path, read_result):
    done, _ = run_methods("tail")
    trunk, tail = done.plan.runs
    before = read_result(tmp_path / "runs", tail)
    RunFolder(tmp_path / "runs", trunk).checkpoint.unlink()
    for path in (RunFolder(tmp_path / "runs", tail).result, RunFolder(tmp_path / "runs", tail).checkpoint):
        path.unlink()
    again, _ = run_methods("tail")
    assert again.log.ends == [("trunk", "finished"), ("tail", "finished")]
    assert read_result(tmp_path / "runs", tail) == before


def test_no_room_for_trunks_is_room_for_needed_states(write_study, tmp_path):
    plan = Plan(load(str(write_study(tmp_path / "s.yaml", methods=[SOUP]))))
    schedule, runs = Schedule(plan.runs, set()), tmp_path / "runs"

    class Limiting(EventLog):
        def ended(self, planned, outcome):
            super().ended(planned, outcome)
            limit_trunk_storage(runs, 0, needed_trunks(schedule))

    Inline(1).run(schedule, Settings(runs), Limiting())
    assert schedule.failed == {}
    assert not RunFolder(runs, next(iter(plan.runs))).checkpoint.exists()


def test_a_run_whose_needed_state_diverged_fails_with_that_reason(run_methods):
    done, _ = run_methods("tail", recipe={"epochs": 3, "batch_size": 16, "lr": 1e30})
    (trunk, (state, reason)), (_, failed) = done.schedule.failed.items()
    assert (state, reason[:27]) == ("diverged", "the training loss became na")
    digits = trunk.removeprefix("trunks/")[:12]
    assert failed == ("failed", f"it needs the trunk {digits}, which did not finish: {reason}")
