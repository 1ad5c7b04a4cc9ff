"""Trunks: which training is shared, what it costs, and that results do not depend on it."""

import json
from io import StringIO

import pytest
import torch

from harness.cli.options.plain_console import PlainConsole
from harness.engines import Inline, Processes
from harness.planning.dry_run import plan_table
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.planning.trunk_storage import limit_trunk_storage, needed_trunks
from harness.planning.trunks import StateHashes, TrunkRun, find_trunks
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.build_method import MetaMethods
from harness.studies.study import load
from methods import METHODS
from tests.harness.made_up import made_up_result

EPOCHS = 8
METHODS_OF_STUDY = [
    "sgd",
    "late_phase_bn(K=2, start=4)",
    "late_phase_bn(K=3, start=4)",
    "late_phase_bn(K=3, start=4, prediction=members)",
    "late_phase_bn(K=2, start=6)",
    "swa(start=6, ratio=None)",
    "dropout",
    "mc_dropout(K=2)",
    "deep_ensemble(K=2)",
]


def study_of(write_study, tmp_path, **changes):
    changes = {"methods": METHODS_OF_STUDY, "recipe": {"epochs": EPOCHS, "batch_size": 16, "lr": 0.05}} | changes
    return write_study(tmp_path / "s.yaml", **changes)


def plan_of(write_study, tmp_path, **changes):
    return Plan(load(str(study_of(write_study, tmp_path, **changes))), share=True)


def by_name(plan):
    return {f"{p.run.method} {p.run.seed}": p for p in plan.without_trunks.values()}


def trunks(plan):
    """Give the trunks of plain training of the first seed by their epochs."""
    within = by_name(plan)["sgd 0"].trunks
    return {plan.runs[key].epochs: plan.runs[key] for key in within}


# --- which states are shared ---------------------------------------------------------------------------------


def test_trunks_end_where_histories_part():
    histories = {"a": list("abcd"), "b": list("abce"), "c": list("ab"), "d": list("abxyz"), "e": list("q")}
    assert find_trunks(histories) == {"a": [3, 2], "b": [3, 2], "c": [2], "d": [2], "e": []}


def test_runs_that_share_all_their_training_have_a_trunk_of_all_epochs():
    assert find_trunks({"a": list("abc"), "b": list("abc"), "c": []}) == {"a": [3], "b": [3], "c": []}


def history(make_run, method, run=None, **recipe):
    made = make_run(method, run=run, **recipe)
    plan = Plan.__new__(Plan)
    plan.study, plan.meta_methods = type("Study", (), {"methods": METHODS}), MetaMethods(METHODS)
    return StateHashes().of(made, plan.meta_method(made))


def common(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


LINEAR = {"kind": "linear", "start": 0.5, "end": 0.75, "ratio": 0.1}


@pytest.mark.parametrize(
    ("one", "other", "epochs"),
    [
        ("sgd", "late_phase_bn(start=4)", 4),
        ("late_phase_bn(start=4)", "late_phase_bn(start=4, K=3)", 4),
        ("late_phase_bn(start=4)", "late_phase_bn(start=4, statistics=reestimate)", 8),
        ("late_phase_bn(start=4)", "late_phase_last_layer(start=6)", 4),
        ("late_phase_rank1(start=4)", "rank1", 0),  # whose last layer has factors, too
        ("late_phase_rank1(start=4)", "late_phase_rank1(start=6)", 4),
        ("late_phase_rank1(start=4)", "sgd", 0),
        ("swa(start=6, ratio=None)", "swag(start=6, ratio=None, N=2)", 6),
        ("swag(start=6, N=2)", "swag(start=6, N=3, scale=1.0)", 8),
        ("swa(start=6)", "sgd", 4),  # its rate is another one from then on: half of 6, at most 4 by the schedule
        ("swa(late_phase_bn(start=4), start=6, ratio=None)", "late_phase_bn(start=4)", 6),
        ("snapshot(M=2)", "sgd", 0),
        ("dropout", "mc_dropout", 8),
        ("dropout", "dropout(p=0.3)", 0),
        ("label_smoothing", "label_smoothing(swa(start=6, ratio=None))", 6),
        ("label_smoothing", "sgd", 0),
        ("early_stopping", "sgd", 0),
        ("line", "line(prediction=pair)", 8),
        ("line", "curve", 0),
        ("batch_ensemble(K=2)", "batch_ensemble(K=3)", 0),
    ],
)
def test_how_long_methods_have_a_history_in_common(make_run, one, other, epochs):
    a, b = (history(make_run, method, epochs=8, schedule=LINEAR) for method in (one, other))
    assert common(a, b) == epochs
    assert len(a) == len(b) == 8


def test_what_a_history_depends_on(make_run):
    usual = history(make_run, "sgd", epochs=8)
    assert common(usual, history(make_run, "sgd", epochs=12)) == 8, "how long training goes on is not seen before"
    assert common(usual, history(make_run, "sgd", epochs=8, reestimate_on="plain")) == 8
    later = {"kind": "step", "milestones": [5], "ratio": 0.1}
    assert common(usual, history(make_run, "sgd", epochs=8, schedule=later)) == 5
    for change in ({"lr": 0.1}, {"batch_size": 8}, {"momentum": 0.8}, {"weight_decay": 0.0}, {"optimizer": "adam"}):
        assert common(usual, history(make_run, "sgd", **{"epochs": 8} | change)) == 0, change
    assert common(usual, history(make_run, "sgd", {"precision": "bfloat16"}, epochs=8)) == 0
    assert common(usual, history(make_run, "sgd", {"evaluate": {"flatness": {}}}, epochs=8)) == 8
    asked = history(make_run, "sgd", {"evaluate": {"each_epoch": ["test"]}}, epochs=8)
    assert common(usual, asked) == 0, "what is measured after each epoch stands in the epochs' lines"


def test_stages_share_what_comes_before_the_last_one(make_run):
    """Fine-tuning in several ways starts from one pretrained state."""

    def tuned(ratio):
        stages = [{"epochs": 6}, {"epochs": 2, "ratio": ratio}]
        return history(make_run, "sgd", epochs=8, schedule={"kind": "stages", "stages": stages})

    assert common(tuned(0.1), tuned(0.2)) == 6
    assert common(tuned(1.0), history(make_run, "sgd", epochs=8)) == 6, "momentum begins anew"


# --- the plan ------------------------------------------------------------------------------------------------


def test_the_plan_has_trunks_before_their_forks(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path)
    keys = list(plan.runs)
    for key, planned in plan.runs.items():
        assert all(keys.index(trunk) < keys.index(key) for trunk in planned.trunks)
        assert planned.trunk_epochs == (plan.runs[planned.trunks[0]].epochs if planned.trunks else 0)
    found, runs = trunks(plan), by_name(plan)
    assert {epochs: planned.trunk_epochs for epochs, planned in found.items()} == {4: 0, 6: 4}
    others = [p for p in plan.runs.values() if p.role == "trunk" and p not in found.values()]
    shared = sorted((p.trunk_epochs, p.epochs, p.run.run.method.name) for p in others)
    assert shared == [(0, 8, "dropout"), (4, 8, "late_phase_bn")]
    assert runs["late_phase_bn(K=2, start=6) 0"].trunks == (found[6].key, found[4].key)
    assert runs["late_phase_bn(K=2, start=4) 0"].trunks == (found[4].key,)
    assert runs["deep_ensemble(K=2) 0"].trunks == ()
    assert runs["sgd 1"].trunks == (), "nothing else is trained with that seed"


def test_epochs_before_and_after_sharing(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path)
    written = sum(plan.epochs_as_written(key) for key, p in plan.runs.items() if p.role == "cell")
    assert written == 8 * 8 + 2 * 8
    left = plan.left(tmp_path / "runs")
    # seed 0: plain training to its end, late phases of 4 (K = 2), 4 (K = 3, one training for two cells) and 2, an
    # average of 2, one training with dropout for two cells; seed 1: plain training, for the deep ensemble
    assert sum(left.values()) == 8 + 4 + 4 + 2 + 2 + 8 + 8
    console = PlainConsole(width=200, file=StringIO())
    console.print(plan_table(plan, tmp_path / "runs"))
    assert "after sharing: 36 of 80 epochs as written, 45.0 %" in console.file.getvalue()


def test_a_sweep_of_the_paper_costs_less_than_half():
    plan = Plan(load("late-phase/sweep"), share=True)
    written = sum(plan.epochs_as_written(key) * len(p.labels) for key, p in plan.runs.items() if p.role == "cell")
    assert (written, sum(p.epochs - p.trunk_epochs for p in plan.runs.values())) == (4000, 1760)
    assert sum(p.epochs for p in plan.without_trunks.values()) == 18 * 200


def test_a_trunk_that_one_run_waits_for_is_not_trained(write_study, tmp_path, run_study):
    study = study_of(
        write_study, tmp_path, methods=["sgd", "late_phase_bn(K=2, start=4)", "late_phase_bn(K=2, start=6)"]
    )
    runs = tmp_path / "runs"
    plan = Plan(load(str(study)), share=True)
    sgd, late, later = plan.without_trunks
    four, six = (next(p.key for p in plan.runs.values() if p.role == "trunk" and p.epochs == e) for e in (4, 6))
    assert plan.left(runs) == {four: 4, six: 2, sgd: 2, late: 4, later: 2}
    RunFolder(runs, sgd).path.mkdir(parents=True)
    write_json(RunFolder(runs, sgd).result, made_up_result(sgd))
    assert plan.left(runs) == {four: 4, late: 4, later: 4}, "of the trunk of six epochs one run is left: it trains them"
    RunFolder(runs, late).checkpoint.parent.mkdir()
    RunFolder(runs, late).checkpoint.touch()
    assert plan.left(runs) == {late: 8, later: 8}, "one of them goes on from its own checkpoint: no trunk is wanted"
    assert plan.finished(runs) == plan.runs.keys() - {late, later}


# --- results -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unshared(tmp_path_factory, write_study, run_study):
    folder = tmp_path_factory.mktemp("unshared")
    return run_study(study_of(write_study, folder), folder / "runs")


@pytest.mark.parametrize(
    "engine",
    [pytest.param(Inline(1), id="inline"), pytest.param(Processes(2, 1), id="processes", marks=pytest.mark.long)],
)
def test_shared_results_are_those_of_training_alone(engine, unshared, write_study, tmp_path, run_study, read_result):
    done = run_study(study_of(write_study, tmp_path), tmp_path / "runs", engine, share=True)
    assert done.schedule.failed == {}
    alone = unshared.settings.runs
    assert done.plan.without_trunks.keys() == unshared.plan.runs.keys()
    for key in unshared.plan.runs:
        assert read_result(tmp_path / "runs", key) == read_result(alone, key), done.plan.runs[key].run
    spent = [json.loads(RunFolder(tmp_path / "runs", key).result.read_text())["spent"] for key in done.plan.runs]
    assert sum(cost["forward_examples"] for cost in spent) == 60 * 36 + prepared(unshared)
    whole = [json.loads(RunFolder(alone, key).result.read_text()) for key in unshared.plan.runs]
    assert sum(result["spent"]["forward_examples"] for result in whole) == 60 * 8 * 9 + prepared(unshared)


def prepared(unshared) -> int:
    """Examples passed forward to re-estimate statistics: once for the average."""
    return 60


def test_a_state_that_was_removed_or_damaged_is_trained_again(
    unshared, write_study, tmp_path, run_study, read_result, capfd
):
    study, runs = study_of(write_study, tmp_path), tmp_path / "runs"
    done = run_study(study, runs, share=True)
    found = trunks(done.plan)
    victims = [key for key, p in done.plan.without_trunks.items() if p.trunks]
    for key in victims:
        folder = RunFolder(runs, key)
        folder.result.unlink()
        folder.checkpoint.unlink()
    found_6 = RunFolder(runs, found[6].key)
    for planned in done.plan.runs.values():
        if planned.role == "trunk" and planned is not found[6]:
            RunFolder(runs, planned.key).checkpoint.unlink()
    found_6.checkpoint.write_bytes(b"damaged")
    left = done.plan.left(runs)
    assert left[found[4].key] == 4, "it is wanted again"
    assert found[6].key not in left, "that it is damaged is not seen before it is read"
    again = run_study(study, runs, share=True)
    assert again.schedule.failed == {}
    assert "checkpoint.pt: not a readable checkpoint" in capfd.readouterr().err
    for key in victims:
        assert read_result(runs, key) == read_result(unshared.settings.runs, key)


BROKEN = """
from methods import SGD
from methods.core.declarations import PLAIN_TRUNK
from methods.core.declarations import Sharing, Trunk

class Broken(SGD):
    'Cannot be trained, though it says that it is plain training.'
    sharing = Sharing(lambda method: Trunk(PLAIN_TRUNK, method.epochs))
    def begin_epoch(self, epoch):
        raise ArithmeticError("boo")
"""


FINE_TUNING = """
from methods import SGD
from methods import Need
from methods.core.declarations import Sharing

class FineTuning(SGD):
    'Trains on from a finished run.'
    sharing = Sharing(prediction=frozenset({"twice"}))
    def __init__(self, make_net, recipe, *, twice: bool = False):
        super().__init__(make_net, recipe)
        self.twice = twice
    def needs(self):
        return [Need(self.seed + 100)]
    def receive(self, states):
        self.load_state_dict(states[0])
        self.epoch = 0

METHODS = {"fine_tuning": FineTuning}
"""


def test_a_trunk_starts_from_what_its_forks_start_from(write_study, tmp_path, run_study, read_result):
    plugin = tmp_path / "fine_tuning.py"
    plugin.write_text(FINE_TUNING)
    study = study_of(write_study, tmp_path, methods=["fine_tuning", "fine_tuning(twice=True)"], plugins=[str(plugin)])
    shared = run_study(study, tmp_path / "runs", share=True)
    alone = run_study(study, tmp_path / "alone")
    assert [planned.role for planned in shared.plan.runs.values()] == ["component", "trunk", "cell", "cell"]
    for key in alone.plan.runs:
        assert read_result(tmp_path / "runs", key) == read_result(tmp_path / "alone", key)


def test_a_run_whose_trunk_failed_trains_alone(unshared, write_study, tmp_path, run_study, read_result):
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    study = study_of(write_study, tmp_path, methods=["broken", "sgd", "late_phase_bn(K=2, start=4)"])
    done = run_study(study, tmp_path / "runs", share=True, plugins=[plugin])
    runs = by_name(done.plan)
    assert {str(done.plan.runs[key].run.method) for key in done.schedule.failed if key in done.plan.without_trunks} == {
        "broken"
    }
    for name in ("sgd 0", "late_phase_bn(K=2, start=4) 0"):
        assert read_result(tmp_path / "runs", runs[name].key) == read_result(unshared.settings.runs, runs[name].key)


def test_a_run_whose_trunk_diverged_diverged(write_study, tmp_path, run_study):
    recipe = {"epochs": EPOCHS, "batch_size": 16, "lr": 1e30}
    study = study_of(write_study, tmp_path, methods=["sgd", "late_phase_bn(K=2, start=4)"], recipe=recipe)
    done = run_study(study, tmp_path / "runs", share=True)
    assert len(done.schedule.failed) == 3
    for key, (state, reason) in done.schedule.failed.items():
        assert state == "diverged"
        assert reason.startswith("the training loss became nan in epoch")
        assert reason.endswith("(in the trunk that it goes on from)") == (key in done.plan.without_trunks)


def test_a_diverged_trunk_is_named_once_also_where_a_trunk_goes_on_from_it(write_study, tmp_path, run_study):
    recipe = {"epochs": EPOCHS, "batch_size": 16, "lr": 1e30}
    methods = ["sgd", "late_phase_bn(K=2, start=2)", "late_phase_bn(K=2, start=4)"]
    done = run_study(study_of(write_study, tmp_path, methods=methods, recipe=recipe), tmp_path / "runs", share=True)
    reasons = [outcome.reason for outcome in done.schedule.failed.values()]
    assert len(reasons) == len(done.plan.runs) >= 5, "trunks of 2 and of 4 epochs"
    assert {reason.count("in the trunk that it goes on from") for reason in reasons} == {0, 1}


def test_the_same_state_whichever_run_trains_it(write_study, tmp_path, run_study):
    """A trunk's file is that of a study in which another method comes first."""
    found = []
    for i, methods in enumerate((METHODS_OF_STUDY[:2], METHODS_OF_STUDY[1::-1])):
        (tmp_path / str(i)).mkdir()
        done = run_study(study_of(write_study, tmp_path / str(i), methods=methods), tmp_path / str(i) / "r", share=True)
        (trunk,) = trunks(done.plan).values()
        found.append((trunk, torch.load(RunFolder(tmp_path / str(i) / "r", trunk.key).checkpoint)))
    (one, a), (other, b) = found
    assert one.key == other.key
    assert str(one.run.run.method) != str(other.run.run.method)
    assert a["method"].keys() == b["method"].keys()
    assert all(torch.equal(a["method"][k], b["method"][k]) for k in a["method"] if k != "_extra_state")
    assert a["optimizer"].keys() == b["optimizer"].keys()


# --- the disk ------------------------------------------------------------------------------------------------


def state(root, name, size, age):
    import os

    folder = RunFolder(root, f"trunks/{name}")
    folder.path.mkdir(parents=True)
    folder.checkpoint.write_bytes(bytes(size))
    write_json(folder.result, made_up_result(folder.key))
    os.utime(folder.checkpoint, (1e9 - age, 1e9 - age))
    return folder


def test_trunk_storage_is_limited(tmp_path):
    folders = {name: state(tmp_path, name, 100, age) for name, age in (("old", 3), ("new", 1), ("needed", 2))}
    assert limit_trunk_storage(tmp_path, 300, {"trunks/needed"}) == []
    assert limit_trunk_storage(tmp_path, 200, {"trunks/needed"}) == ["trunks/old"]
    assert limit_trunk_storage(tmp_path, 100, {"trunks/needed"}) == ["trunks/new"]
    assert folders["needed"].checkpoint.exists()
    assert limit_trunk_storage(tmp_path, 99, {"trunks/needed"}) == ["trunks/needed"]
    assert all(folder.finished for folder in folders.values()), "what is known of it stays"
    assert limit_trunk_storage(tmp_path / "nowhere", 0, set()) == []


def test_a_state_that_is_being_trained_is_not_removed(tmp_path):
    folder = state(tmp_path, "half", 100, 1)
    folder.result.unlink()
    assert limit_trunk_storage(tmp_path, 0, set()) == []
    assert folder.checkpoint.exists()


def test_needed_trunks(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, methods=["sgd", "late_phase_bn(K=2, start=4)"])
    schedule = Schedule(plan.runs, set())
    (trunk,) = trunks(plan).values()
    assert needed_trunks(schedule) == {trunk.key}
    for _ in range(3):
        schedule.end(schedule.take(), Outcome("finished"))
    assert needed_trunks(schedule) == set()
    assert isinstance(trunk.run, TrunkRun)
    assert str(trunk.run) == "trunk of 4 epochs · lenet5 · rows · seed 0"
