"""A trial: scored on validation data alone, pruned after some epochs, and the same after any interruption."""

import json

import optuna
import pytest
import torch
from optuna.trial import TrialState

import data
from data import ImageTask
from harness.running import execute, run_data
from harness.running import lifecycle as execution
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.build_method import make_method
from harness.studies.study import load
from harness.tuning.pruning import departure_epoch, rungs, survives_rung
from harness.tuning.study_searches import find_searches
from harness.tuning.trial import PlannedTrial, execute_trial
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_schedule import TrialSchedule
from methods import METHODS


@pytest.fixture
def held_out(npz):
    return [{"name": f"npz:{npz}", "validation": 15}]


@pytest.fixture
def begin(tmp_path, write_study, held_out):
    """Return a function that begins trials of a method. It returns the schedule, the trials and their settings."""

    def make(method, *values, epochs=6, metric="nll", runs="runs", prune=True, **settings):
        recipe = {"epochs": epochs, "batch_size": 16, "lr": 0.05}
        study = load(str(write_study(tmp_path / "s.yaml", datasets=held_out, methods=[method], recipe=recipe)))
        (search,) = find_searches(study, metric, 1000, prune=prune).searches
        trials = TrialSchedule([search], tmp_path / runs, Budget(99, 99.0))
        trials.ensure_waiting()
        for key in list(trials.waiting):
            trials.take()
            planned = trials.runs[key]
        plans = [planned]
        for each in values:
            attributes = {"key": str(each), "expected": 1.0}
            trials.journals[search.key].begin({**search.defaults, **each}, search.space, attributes)
            plans.append(trials.plan_trial(search, trials.trials(search.key)[-1]))
        made = Settings(tmp_path / runs, checkpoint_seconds=0.0, **settings)
        return trials, plans, made

    return make


def result(settings, planned):
    return json.loads(RunFolder(settings.runs, planned.key).result.read_text())


def ignore():
    pass


# --- the pruning rule -------------------------------------------------------------------------------------------------


def test_rungs():
    assert rungs(30) == [10, 20]
    assert rungs(200) == [67, 134]
    assert rungs(3) == [1, 2]
    assert rungs(2) == [1]
    assert rungs(1) == []


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_pruning_rule_is_optunas_successive_halving(direction):
    """Trials with the same values, one after another, stop at the same epochs as with Optuna's own pruner."""
    generator = torch.Generator().manual_seed(0)
    epochs = 30
    first, _ = rungs(epochs)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    study = optuna.create_study(direction=direction, pruner=pruner)
    seen: dict[int, list[float]] = {epoch: [] for epoch in range(1, epochs)}
    stops = []
    for _ in range(40):
        values = torch.randint(0, 12, (epochs,), generator=generator).double().tolist()  # with many ties
        trial, mine, theirs = study.ask(), None, None
        for epoch in range(1, epochs):
            value = values[epoch]
            trial.report(value, epoch)
            if theirs is None and trial.should_prune():
                theirs = epoch
            if epoch in rungs(epochs) and not survives_rung(value, seen[epoch], lower=direction == "minimize"):
                mine = epoch
            seen[epoch].append(value)
            if theirs is not None or mine is not None:
                break
        assert mine == theirs
        stops.append(mine)
        study.tell(trial, state=TrialState.PRUNED) if mine else study.tell(trial, 0.0)
    assert {None, *rungs(epochs)} == set(stops)


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("sgd", 0),
        ("dropout", 0),
        ("label_smoothing", 0),
        ("late_phase_bn(K=2, start=0.5)", 3),
        ("swa(late_phase_bn(K=2, start=1), start=4)", 4),
        ("snapshot(M=2)", 2),
        ("line", 0),
    ],
)
def test_departure_epoch(make_run, text, epoch):
    run = make_run(text, epochs=6)
    method = make_method(run, METHODS, data.dataset_shape(run.dataset.name, **run.dataset.options()))
    assert departure_epoch(method) == epoch


# --- a trial --------------------------------------------------------------------------------------------------


def test_a_trial_is_scored_on_validation_data_as_its_run_would_be(begin, tmp_path):
    """The value equals the NLL of the held-out images, computed here for the same method in a run of its own."""
    _, (planned,), settings = begin("swa(start=2)", epochs=4)
    assert execute_trial(planned, settings, ignore) == ("finished", "")
    found = result(settings, planned)
    alone = Settings(tmp_path / "alone", checkpoint_seconds=0.0)
    assert execute.execute(planned.run, alone, []).state == "finished"
    method = make_method(
        planned.run, METHODS, data.dataset_shape(planned.run.dataset.name, **planned.run.dataset.options())
    )
    method.load_state_dict(execution.load_finished(RunFolder(alone.runs, planned.run.key)))
    method.eval()
    task = data.load(planned.run.dataset.name, **planned.run.dataset.options())
    with torch.no_grad():
        x, y = next(iter(task.part("validation", 15)))
        log_p = method.predict(x).double().log_softmax(-1)
    assert len(x) == 15
    nll = -(log_p.logsumexp(0) - torch.tensor(len(log_p)).log())[torch.arange(15), y].mean().item()
    assert found["value"] == pytest.approx(nll, abs=1e-6)
    assert found["metrics"]["validation/accuracy"] == pytest.approx(
        100 * (log_p.logsumexp(0).argmax(-1) == y).double().mean().item()
    )
    epochs = RunFolder(settings.runs, planned.key).read_epochs()
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]
    assert all({"validation/nll", "validation/accuracy", "train/loss"} <= set(line) for line in epochs)
    assert epochs[-1]["validation/nll"] == pytest.approx(found["value"])
    losses = [line["train/loss"] for line in RunFolder(alone.runs, planned.run.key).read_epochs()]
    assert [line["train/loss"] for line in epochs] == losses, "scoring does not change training"


def test_the_test_set_is_never_opened(begin, monkeypatch):
    opened = []
    part = ImageTask.part

    def guarded(self, name, *arguments):
        opened.append(name)
        assert name != "test", "the test set was opened"
        return part(self, name, *arguments)

    def closed(*_):
        raise AssertionError("something of the test set was opened")

    class Closed:
        """Replaces the images and labels of the test set. Any use of it is an error."""

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            closed()

    load_task = run_data.load_cached_task.__wrapped__

    def without_test(*arguments):
        task = load_task(*arguments)
        assert task.ood == {}, "OOD datasets are not loaded"
        object.__setattr__(task, "test", Closed())
        return task

    monkeypatch.setattr(ImageTask, "part", guarded)
    monkeypatch.setattr(ImageTask, "corrupted", closed)
    monkeypatch.setattr(execution, "load_task", without_test)
    _, plans, settings = begin("swag(late_phase_bn(K=2, start=1), N=2)", {"start": 0.51}, epochs=12)
    for planned in plans:
        assert execute_trial(planned, settings, ignore) == ("finished", "")
    assert set(opened) == {"validation"}
    outcome = execute.execute(plans[0].run.model_copy(update={"seed": 1}), settings, [])
    assert "the test set was opened" in outcome.reason, "a run that is evaluated does open it"


def test_costs_are_measured_in_plain_trainings(begin):
    for method, cost in (
        ("dropout", 1.0),
        ("batch_ensemble(K=3)", 3.0),
        ("late_independent(K=2, start=2)", 1 / 3 + 4 / 3),
    ):
        _, (planned,), settings = begin(method, runs=method[:4], prune=False)
        assert execute_trial(planned, settings, ignore).state == "finished"
        assert result(settings, planned)["plain_trainings"] == pytest.approx(cost, rel=0.02)


def test_a_bad_trial_is_pruned_with_a_reason(begin):
    trials, (good, bad), settings = begin("snapshot(M=6)", {"ratio": 0.25}, epochs=6)
    journal = trials.journals[good.search]
    for epoch in range(1, 6):
        journal.report(good.number, epoch, 0.0)
    assert execute_trial(bad, settings, ignore) == ("finished", "")
    end = result(settings, bad)
    assert (end["state"], end["epoch"], end["value"]) == ("pruned", 2, None)
    assert end["plain_trainings"] == pytest.approx(2 / 6)
    value = RunFolder(settings.runs, bad.key).read_epochs()[-1]["validation/nll"]
    assert end["reason"] == f"validation nll {value:.4g} after epoch 2: not in the better 1/2 of 2 trials"
    assert journal.trials()[bad.number].intermediate_values == {
        line["epoch"]: line["validation/nll"] for line in RunFolder(settings.runs, bad.key).read_epochs()
    }
    assert not RunFolder(settings.runs, bad.key).checkpoint.exists()


def test_no_trial_is_pruned_before_its_departure_epoch_or_if_pruning_is_off(begin):
    trials, (good, late), settings = begin("late_phase_bn(K=2)", {"start": 0.7}, epochs=6)
    journal = trials.journals[good.search]
    for epoch in range(1, 6):
        journal.report(good.number, epoch, 0.0)
    assert execute_trial(late, settings, ignore).state == "finished"
    assert result(settings, late)["state"] == "finished"
    assert list(journal.trials()[late.number].intermediate_values) == [5], "T0 is epoch 4, counted from 0"
    trials, (good, bad), settings = begin("dropout", {"p": 0.5}, epochs=6, prune=False, runs="unpruned")
    for epoch in range(1, 6):
        trials.journals[good.search].report(good.number, epoch, 0.0)
    execute_trial(bad, settings, ignore)
    assert result(settings, bad)["state"] == "finished"


def test_the_studys_own_values_are_never_pruned(begin):
    trials, (first, other), settings = begin("dropout", {"p": 0.5}, epochs=6)
    for epoch in range(1, 6):
        trials.journals[first.search].report(other.number, epoch, 0.0)
    execute_trial(first, settings, ignore)
    assert result(settings, first)["state"] == "finished"
    assert (first.prune, other.prune) == (False, True)


def test_a_kill_between_checkpoint_and_pruning_changes_nothing(begin, monkeypatch):
    """With or without the value in the journal, the trial is pruned after the same epoch as without the kill."""
    for keep_report in (False, True):
        trials, (good, bad), settings = begin("dropout", {"p": 0.5}, epochs=6, runs=f"runs{keep_report}")
        journal = trials.journals[good.search]
        for epoch in range(1, 6):
            journal.report(good.number, epoch, 0.0)
        calls = []

        def killed(keep_report=keep_report, journal=journal, bad=bad, settings=settings, calls=calls):
            calls.append(None)
            if len(calls) == 2:
                line = RunFolder(settings.runs, bad.key).read_epochs()[-1]
                if keep_report:
                    journal.report(bad.number, line["epoch"], line["validation/nll"])
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            execute_trial(bad, settings, killed)
        assert not RunFolder(settings.runs, bad.key).finished
        assert execute_trial(bad, settings, ignore).state == "finished"
        end = result(settings, bad)
        assert (end["state"], end["epoch"]) == ("pruned", 2)
        assert [line["epoch"] for line in RunFolder(settings.runs, bad.key).read_epochs()] == [1, 2]


def test_a_diverged_trial_has_a_result_and_a_failed_one_has_none(begin, tmp_path, write_study, held_out):
    (tmp_path / "odd.py").write_text(
        "from optuna.distributions import FloatDistribution\n"
        "from methods import Method\n"
        "class Odd(Method):\n"
        "    space = {'a': FloatDistribution(0.0, 1.0)}\n"
        "    def __init__(self, make_net, recipe, *, a: float = 0.0):\n"
        "        super().__init__(make_net, recipe)\n"
        "        self.a = a\n"
        "    def loss(self, x, y, weights=None):\n"
        "        if self.a > 0.5:\n"
        "            raise ArithmeticError('boo')\n"
        "        return super().loss(x, y, weights) * (float('nan') if self.a > 0.2 else 1)\n"
    )
    file = write_study(tmp_path / "s.yaml", datasets=held_out, methods=["odd"], plugins=["odd.py"])
    study = load(str(file))
    (search,) = find_searches(study, "nll", 1000).searches
    trials = TrialSchedule([search], tmp_path / "runs", Budget(9, 9.0))
    trials.ensure_waiting()
    settings = Settings(tmp_path / "runs", plugins=study.plugins)
    for a, state in ((0.0, "finished"), (0.4, "diverged"), (0.7, "failed")):
        if a:
            trials.journals[search.key].begin({"a": a}, search.space, {"key": str(a), "expected": 1.0})
        planned = trials.plan_trial(search, trials.trials(search.key)[-1])
        trials.runs[planned.key] = planned
        outcome = execute_trial(planned, settings, ignore)
        assert outcome.state == ("failed" if state == "failed" else "finished")
        trials.running.add(planned.key)
        trials.waiting.clear()
        trials.end(planned.key, outcome)
        end = trials.trials(search.key)[planned.number].user_attrs["end"]
        assert end["state"] == state
        if state == "diverged":
            assert "the training loss became nan in epoch 1" in end["reason"]
            assert 0 < end["cost"] <= 1 / 3
        if state == "failed":
            assert end["reason"] == "ArithmeticError: boo"
            assert (
                "ArithmeticError" in json.loads(RunFolder(settings.runs, planned.key).failure.read_text())["traceback"]
            )


def test_tuning_on_text(tmp_path):
    (tmp_path / "poem.txt").write_bytes(b"roses are red, violets are blue " * 100)
    (tmp_path / "s.yaml").write_text(
        "datasets: [{name: 'text:poem.txt', segment: 8}]\narchitectures: [lstm-4]\nseeds: [0]\n"
        "methods: [label_smoothing]\nrecipe: {epochs: 3, batch_size: 16}\n"
    )
    (search,) = find_searches(load(str(tmp_path / "s.yaml")), "nll", 1000).searches
    trials = TrialSchedule([search], tmp_path / "runs", Budget(1, 1.0))
    planned = trials.runs[trials.take()]
    assert execute_trial(planned, Settings(tmp_path / "runs"), ignore) == ("finished", "")
    found = result(Settings(tmp_path / "runs"), planned)
    assert found["plain_trainings"] == pytest.approx(1.0)
    assert set(found["metrics"]) == {"validation/accuracy", "validation/nll", "validation/bpc"}


def test_the_folder_of_a_trial_is_inside_that_of_its_search(begin):
    _, (planned,), _ = begin("dropout")
    assert isinstance(planned, PlannedTrial)
    assert planned.key == f"tuning/{planned.search}/{planned.run.key}"


def test_a_trial_whose_data_were_replaced_is_refused(begin, npz, held_out, tmp_path):
    copy = tmp_path / "copy.npz"
    copy.write_bytes(npz.read_bytes())
    held_out[0]["name"] = f"npz:{copy}"
    _, (planned,), settings = begin("dropout")
    copy.write_bytes(npz.read_bytes() + b"more")
    state, reason = execute_trial(planned, settings, ignore)
    assert state == "failed" and f"{copy}: was changed after this run was planned" in reason
