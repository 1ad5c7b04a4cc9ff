"""States after some epochs of another run (`Need.epoch`): they are trunks, planned and kept while a run needs them."""

from io import StringIO

import pytest

import methods
from harness.cli.options.plain_console import PlainConsole
from harness.parsing.yaml_errors import StudyError
from harness.planning.dry_run import plan_table
from harness.planning.plan import Plan, shape
from harness.planning.schedule import Schedule
from harness.planning.trunk_storage import limit_trunk_storage, needed_trunks
from harness.planning.trunks import StateHashes
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.build_method import build_meta_method
from harness.studies.study import load
from harness.tracking.status import read_statuses
from tests.harness.made_up import made_up_result
from tests.harness.tails import Tail


@pytest.fixture
def plan_of(monkeypatch, write_study, tmp_path):
    """Return a function that plans a study of tails."""
    monkeypatch.setitem(methods.METHODS, "tail", Tail)

    def make(*names, share=False, **changes):
        return Plan(load(str(write_study(tmp_path / "s.yaml", methods=list(names), **changes))), share=share)

    return make


def finish(root, planned, *, state=True):
    """Write what a finished run leaves in its folder, as far as plans look at it."""
    folder = RunFolder(root, planned.key)
    write_json(folder.result, made_up_result(planned.key))
    if state:
        folder.checkpoint.touch()


@pytest.mark.parametrize("share", [False, True])
def test_a_needed_state_is_a_trunk_before_the_runs_that_need_it(plan_of, make_run, share):
    plan = plan_of("deep_ensemble(tail, K=2)", share=share)
    state, *tails, ensemble = plan.runs.values()
    assert [planned.role for planned in plan.runs.values()] == ["trunk", "component", "component", "cell"]
    plain = make_run("sgd", seed=1000)
    history = StateHashes().of(plain, build_meta_method(plain, methods.METHODS, shape(plain)))
    assert (state.key, state.epochs, state.needs) == (f"trunks/{history[1]}", 2, ())
    assert str(state.run) == "trunk of 2 epochs · lenet5 · rows · seed 1000"
    assert [tail.after for tail in tails] == 2 * [(state.key,)]
    assert ensemble.needs == tuple(tail.key for tail in tails)


def test_what_several_parts_need_counts_once(plan_of, tmp_path):
    plan = plan_of("deep_ensemble(tail, K=2)")
    state, tail, _, ensemble = plan.runs
    assert [plan.epochs_as_written(key) for key in (state, tail, ensemble)] == [2, 2 + 3, 2 + 2 * 3]
    console = PlainConsole(width=200, file=StringIO())
    console.print(plan_table(plan, tmp_path))
    rows = [line.split() for line in console.file.getvalue().replace("│", " ").splitlines()]
    # cells, epochs as written, after sharing, runs left, epochs left; nothing is written for 0
    for row in (
        ["trunks", "2", "1", "2"],
        ["needed:", "tail", "6", "2", "6"],
        ["deep_ensemble(tail,", "K=2)", "1", "8", "1"],
        ["total", "1", "8", "8", "4", "8"],
    ):
        assert row in rows, rows
    finished = plan_of("deep_ensemble(tail(after=None), K=2)")
    assert finished.epochs_as_written(list(finished.runs)[-1]) == 3 + 2 * 3


def test_a_state_that_starts_from_a_state(plan_of):
    plan = plan_of("deep_ensemble(tail(tail, after=1), K=2)")
    first, second, *tails, ensemble = plan.runs.values()
    assert [(planned.role, planned.epochs) for planned in (first, second)] == [("trunk", 2), ("trunk", 1)]
    assert second.needs == (first.key,)
    assert [tail.needs for tail in tails] == 2 * [(second.key,)]
    assert plan.epochs_as_written(ensemble.key) == 2 + 1 + 2 * 3


SWA = "swa(start=1, ratio=None)"


@pytest.mark.parametrize("names", [("sgd", "tail", SWA), ("tail", SWA, "sgd")])
def test_needed_states_are_shared_like_other_trunks(plan_of, tmp_path, names):
    plan = plan_of(*names, seeds=[1000], share=True)
    runs = {str(planned.run.method): planned for planned in plan.without_trunks.values()}
    first, state = sorted((p for p in plan.runs.values() if p.role == "trunk"), key=lambda planned: planned.epochs)
    assert (first.epochs, state.epochs, state.trunks, state.trunk_epochs) == (1, 2, (first.key,), 1)
    assert runs["tail"].needs == (state.key,)
    assert (runs["sgd"].trunks, runs["sgd"].trunk_epochs) == ((state.key, first.key), 2)
    assert runs[SWA].trunks == (first.key,)
    keys = list(plan.runs)
    assert all(keys.index(before) < keys.index(key) for key, planned in plan.runs.items() for before in planned.after)
    left = plan.left(tmp_path)
    assert [left.pop(planned.key) for planned in (first, state, runs["sgd"], runs["tail"], runs[SWA])] == [
        1,
        1,
        1,
        3,
        2,
    ]
    assert left == {}


def test_a_needed_state_is_left_while_a_run_needs_it(plan_of, tmp_path):
    plan = plan_of("deep_ensemble(tail, K=2)")
    state, one, other, ensemble = plan.runs.values()
    finish(tmp_path, one)
    assert plan.left(tmp_path) == {state.key: 2, other.key: 3, ensemble.key: 0}, "for a single run, too"
    finish(tmp_path, state)
    assert plan.left(tmp_path) == {other.key: 3, ensemble.key: 0}
    assert [status.state for status in read_statuses(plan, tmp_path)] == ["finished", "finished", "to do", "to do"]
    RunFolder(tmp_path, state.key).checkpoint.unlink()
    assert plan.left(tmp_path) == {state.key: 2, other.key: 3, ensemble.key: 0}, "its state was removed"
    finish(tmp_path, other)
    assert plan.left(tmp_path) == {ensemble.key: 0}, "nothing starts from it any more"


def test_a_shared_trunk_needs_the_state_that_its_runs_start_from(plan_of, tmp_path):
    plan = plan_of("tail", "tail(twin=True)", share=True)
    state, shared, one, other = plan.runs.values()
    assert (shared.role, shared.needs, shared.epochs) == ("trunk", (state.key,), 3)
    assert plan.left(tmp_path) == {state.key: 2, shared.key: 3, one.key: 0, other.key: 0}
    for planned in (shared, one, other):
        finish(tmp_path, planned)
    assert plan.left(tmp_path) == {}


@pytest.mark.parametrize("after", [-1, 0, 4])
def test_a_state_after_epochs_that_there_are_not_is_refused(plan_of, after):
    with pytest.raises(StudyError) as refusal:
        plan_of(f"tail(after={after})")
    assert str(refusal.value) == (
        f"tail(after={after}) · lenet5 · rows · seed 0 needs the state of sgd (seed 1000) after {after} epochs, but "
        "that trains 3: let the epoch of this Need be None (the finished state), or from 1 to 3"
    )


def test_a_state_of_a_method_that_trains_nothing_is_refused(plan_of):
    refusal = r"deep_ensemble\(K=2\) \(seed 1000\) after 2 epochs, but that trains 0: .* \(the finished state\)$"
    with pytest.raises(StudyError, match=refusal):
        plan_of("tail(deep_ensemble(K=2))")


def test_a_needed_state_is_kept_until_the_last_run_has_started_from_it(plan_of, tmp_path):
    plan = plan_of("deep_ensemble(tail, K=2)")
    schedule = Schedule(plan.runs, set())
    state = next(iter(plan.runs))
    RunFolder(tmp_path, state).path.mkdir(parents=True)
    RunFolder(tmp_path, state).checkpoint.write_bytes(bytes(100))
    write_json(RunFolder(tmp_path, state).result, made_up_result(state))
    for _ in range(3):
        assert needed_trunks(schedule) == {state}
        assert limit_trunk_storage(tmp_path, 0, needed_trunks(schedule)) == []
        schedule.end(schedule.take(), Outcome("finished"))
    assert needed_trunks(schedule) == set(), "the ensemble is left"
    assert limit_trunk_storage(tmp_path, 0, needed_trunks(schedule)) == [state]
