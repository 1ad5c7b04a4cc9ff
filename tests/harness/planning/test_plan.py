"""Plans: which runs a study takes. Schedules: when each run can start."""

from io import StringIO

import pytest

import methods
from harness.cli.options.plain_console import PlainConsole
from harness.parsing.yaml_errors import StudyError
from harness.planning.dry_run import plan_table
from harness.planning.plan import Plan
from harness.planning.planned_runs import Planned
from harness.planning.schedule import Schedule
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from methods import Method
from tests.harness.made_up import made_up_result


def plan_of(write_study, tmp_path, **changes):
    return Plan(load(str(write_study(tmp_path / "s.yaml", **changes))))


def by_name(plan):
    return {f"{p.run.method} {p.run.seed}": p for p in plan.runs.values()}


def test_the_runs_that_an_ensemble_needs_come_before_it(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, methods=["deep_ensemble(K=2)", "sgd"], seeds=[0, 1])
    runs = by_name(plan)
    assert list(runs) == ["sgd 0", "sgd 1", "deep_ensemble(K=2) 0", "sgd 2", "sgd 3", "deep_ensemble(K=2) 1"]
    assert [p.role for p in runs.values()] == ["cell", "cell", "cell", "component", "component", "cell"]
    assert runs["deep_ensemble(K=2) 0"].needs == (runs["sgd 0"].run.key, runs["sgd 1"].run.key)
    assert runs["deep_ensemble(K=2) 1"].needs == (runs["sgd 2"].run.key, runs["sgd 3"].run.key)
    assert [p.epochs for p in runs.values()] == [3, 3, 0, 3, 3, 0]
    assert plan.epochs_as_written(runs["deep_ensemble(K=2) 1"].run.key) == 6
    assert plan.epochs_as_written(runs["sgd 0"].run.key) == 3


def test_a_component_that_is_a_cell_too_takes_the_cells_label(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, methods=["deep_ensemble(K=2)", {"plain": "sgd"}])
    runs = by_name(plan)
    assert (runs["sgd 0"].role, runs["sgd 0"].label) == ("cell", "plain")
    assert (runs["sgd 1"].role, runs["sgd 1"].label) == ("component", "sgd")


def test_a_method_under_several_labels_is_one_run_and_counts_as_often_as_it_is_written(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, methods=["swa", {"start 0.8": "swa(sgd, start=0.8)"}])
    (planned,) = plan.runs.values()
    assert planned.labels == ("swa", "start 0.8")
    console = PlainConsole(width=200, file=StringIO())
    console.print(plan_table(plan, tmp_path))
    rows = [line.split() for line in console.file.getvalue().replace("│", " ").splitlines()]
    assert ["swa", "1", "3", "3", "1", "3"] in rows
    assert ["start", "0.8", "1", "3"] in rows
    assert ["total", "2", "6", "3", "1", "3"] in rows


def test_ensembles_of_different_seeds_and_sizes_share_runs_but_not_within_a_row(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, methods=["deep_ensemble(K=2)", "deep_ensemble(K=3)"], seeds=[0, 1])
    needs = {name: p.needs for name, p in by_name(plan).items() if p.needs}
    assert not set(needs["deep_ensemble(K=2) 0"]) & set(needs["deep_ensemble(K=2) 1"])
    assert set(needs["deep_ensemble(K=2) 0"]) < set(needs["deep_ensemble(K=3) 0"])
    assert len(plan.runs) == 4 + 6, "sgd 0 … 5 and four ensembles"


def test_ensembles_of_a_composed_method_need_that_method(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, methods=["deep_ensemble(swa(late_phase_bn(K=2), start=2), K=2)"])
    names = [str(p.run.method) for p in plan.runs.values()]
    assert names[:2] == 2 * ["swa(late_phase_bn(K=2), start=2)"]


@pytest.mark.parametrize(
    "method",
    ["late_phase_bn(K=5, start=1, leftover=step)", "swa(late_phase_bn(K=5, start=1, leftover=step), start=2)"],
)
def test_a_cycle_longer_than_an_epoch_gets_a_warning(write_study, tmp_path, method):
    warned = by_name(plan_of(write_study, tmp_path, methods=["sgd", method]))
    assert warned["sgd 0"].warning == ""
    assert warned[f"{method} 0"].warning == (
        f"{method} on rows: an epoch has 4 minibatches, fewer than the 5 of a cycle: none is ever full, and every "
        "epoch ends with a shorter one"
    )
    for fits in (method.replace("K=5", "K=4"), method.replace(", leftover=step", "")):
        assert by_name(plan_of(write_study, tmp_path, methods=[fits]))[f"{fits} 0"].warning == ""


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("late_phase_bn(K=5, start=1, leftover=drop)", "an epoch has 4 minibatches, fewer than the 5 of a cycle"),
        ("swa(late_phase_bn(K=9, start=1), start=2)", "training from epoch 1 on has 8 minibatches, fewer than the 9"),
    ],
)
def test_members_that_would_never_be_trained_are_refused(write_study, tmp_path, method, reason):
    with pytest.raises(StudyError, match=reason):
        plan_of(write_study, tmp_path, methods=[method])


def test_methods_whose_rates_replace_the_recipes_are_named(write_study, tmp_path):
    own = ["fge(start=2)", "swa", "snapshot(M=2)", "swa(before=recipe, anneal=0)"]
    recipe = {"epochs": 4, "batch_size": 16, "schedule": {"kind": "step", "milestones": [1]}}
    listed = ["sgd", "late_phase_bn(K=2)", "swa(ratio=None)", *own]
    assert plan_of(write_study, tmp_path, methods=listed, recipe=recipe).study.caption == (
        "Learning rates of their own in place of the recipe's: from epoch 1 on swa, snapshot(M=2); from epoch 2 on "
        "fge(start=2); from epoch 3 on swa(before=recipe, anneal=0)."
    )
    recipe["schedule"] = {"kind": "constant"}
    assert plan_of(write_study, tmp_path, methods=["sgd", "swa"], recipe=recipe).study.caption == (
        "Learning rates of their own in place of the recipe's: from epoch 2 on swa."
    )
    assert plan_of(write_study, tmp_path, methods=["sgd"], recipe=recipe).study.caption == ""


def test_a_cycle_may_be_as_long_as_all_orders_of_an_epoch(write_study, tmp_path, monkeypatch):
    class Cyclic(Method):
        def __init__(self, make_net, recipe, *, K: int = 8):
            super().__init__(make_net, recipe)
            self.K = K

        def batches_per_update(self):
            return self.K

        def data_orders(self):
            return 2

    monkeypatch.setitem(methods.METHODS, "cyclic", Cyclic)
    warned = by_name(plan_of(write_study, tmp_path, methods=["cyclic", "cyclic(K=9)", "swa(cyclic(K=9), start=2)"]))
    assert warned["cyclic 0"].warning == ""
    for method in ("cyclic(K=9)", "swa(cyclic(K=9), start=2)"):
        assert "an epoch has 8 minibatches, fewer than the 9 of a cycle" in warned[f"{method} 0"].warning


def planned(make_run, method, needs=(), seed=0):
    run = make_run(method, seed=seed)
    return run.key, Planned(run, (method,), "cell", tuple(needs), 1)


@pytest.fixture
def chain(make_run):
    """Make a ← b ← c, and d alone."""
    a, pa = planned(make_run, "sgd")
    b, pb = planned(make_run, "swa(start=1)", [a])
    c, pc = planned(make_run, "swa(start=2)", [a, b])
    d, pd = planned(make_run, "dropout")
    return (a, b, c, d), {a: pa, b: pb, c: pc, d: pd}


def test_a_run_waits_for_what_it_needs(chain):
    (a, b, c, d), runs = chain
    schedule = Schedule(runs, set())
    assert [schedule.take(), schedule.take(), schedule.take()] == [a, d, None]
    assert schedule.running == {a, d}
    schedule.end(a, Outcome("finished"))
    assert [schedule.take(), schedule.take()] == [b, None]
    schedule.end(b, Outcome("finished"))
    assert [schedule.take(), schedule.take()] == [c, None]
    schedule.end(c, Outcome("finished"))
    schedule.end(d, Outcome("finished"))
    assert (schedule.finished, schedule.failed, schedule.running, len(schedule.waiting)) == (set(runs), {}, set(), 0)


def test_a_run_that_needs_a_failed_run_starts(chain):
    (a, b, c, d), runs = chain
    schedule = Schedule(runs, {d})
    schedule.end(schedule.take(), Outcome("diverged", "nan"))
    assert a in runs[b].needs
    assert b in runs[c].needs
    assert schedule.take() == b
    assert schedule.take() is None
    schedule.end(b, Outcome("failed", "no a"))
    assert schedule.take() == c
    assert not schedule.waiting


def test_a_run_whose_worker_died_starts_next(chain):
    (a, b, c, _), runs = chain
    schedule = Schedule(runs, {a, b})
    assert schedule.take() == c
    schedule.put_back(c)
    assert schedule.running == set()
    assert schedule.take() == c


def test_finished_runs_are_found_in_their_folders(write_study, tmp_path, run_study):
    done = run_study(write_study(tmp_path / "s.yaml", seeds=[0, 1]), tmp_path / "runs")
    assert done.plan.finished(tmp_path / "runs") == set(done.plan.runs)
    assert done.plan.finished(tmp_path / "elsewhere") == set()


def test_the_table_counts_epochs_as_written_and_left(write_study, tmp_path):
    methods = [{"[/x] plain": "sgd"}, "deep_ensemble(K=2)"]
    plan = plan_of(write_study, tmp_path, methods=methods, seeds=[0, 1])
    runs = by_name(plan)
    for name in ("sgd 0", "sgd 2"):
        write_json(RunFolder(tmp_path, runs[name].key).result, made_up_result(runs[name].key))
    console = PlainConsole(width=200, file=StringIO())
    console.print(plan_table(plan, tmp_path))
    lines = console.file.getvalue().replace("│", " ").splitlines()
    rows = [line.split() for line in lines]
    assert "study s: 6 runs, 2 of them finished" in lines[0]
    # cells, epochs as written, after sharing, runs left, epochs left; nothing is written for 0
    for row in (
        ["rows", "·", "lenet5"],
        ["[/x]", "plain", "2", "6", "6", "1", "3"],
        ["deep_ensemble(K=2)", "2", "12", "2"],
        ["needed:", "sgd", "6", "1", "3"],
        ["total", "4", "18", "12", "4", "6"],
    ):
        assert row in rows, lines
