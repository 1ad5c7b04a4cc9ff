"""Trials in MLflow: each is one child run of its search, with its status, outside every leaderboard."""

import shutil
import threading

import pytest

from harness.cli.options.plain_console import PlainConsole
from harness.engines import Inline
from harness.parsing import plugin_sources
from harness.running.settings import Settings
from harness.studies.study import load
from harness.tracking.background_mirror import BackgroundMirror
from harness.tuning.mlflow_trials import PARENT, TuningMirror
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_schedule import TrialSchedule
from harness.tuning.tuning_display import TuningDisplay

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ODD = """
from optuna.distributions import CategoricalDistribution
from methods import Method
class Odd(Method):
    space = {"a": CategoricalDistribution(["good", "bad", "no", "nan", "slow"])}
    def __init__(self, make_net, recipe, *, a: str = "good"):
        super().__init__(make_net, recipe)
        self.a = a
        if a == "no":
            raise ValueError("no is no answer")
    def loss(self, x, y, weights=None):
        if self.a == "bad":
            raise ArithmeticError("boo")
        factor = {"nan": float("nan"), "slow": 1e-9}.get(self.a, 1.0)
        return super().loss(x, y, weights) * factor
"""


@pytest.fixture(autouse=True)
def same_keys(monkeypatch):
    """Keep the key of the search, which decides what it draws: here, a trial that ends in each possible way."""
    monkeypatch.setattr(plugin_sources, "INTERFACE", 2)


@pytest.fixture
def tuning(tmp_path, write_study, npz):
    """Return a function that tunes a study whose trials end in every possible way."""
    (tmp_path / "odd.py").write_text(ODD)
    held_out = [{"name": f"npz:{npz}", "validation": 15, "corruptions": "none"}]
    path = write_study(tmp_path / "odd.yaml", datasets=held_out, methods=["odd"], plugins=["odd.py"])
    study = load(str(path))
    searches = find_searches(study, "nll", 1000).searches
    settings = Settings(tmp_path / "runs", plugins=study.plugins)

    def tune(store, trials=4, before=lambda mirror: mirror):
        schedule = TrialSchedule(searches, tmp_path / "runs", Budget(trials, float(trials)))
        schedule.ensure_waiting()
        mirror = before(TuningMirror(store, "odd", tmp_path / "runs"))
        with TuningDisplay(schedule, mirror, PlainConsole(width=200)) as show:
            Inline(1).run(schedule, settings, show)
        return schedule, mirror

    return tune


@pytest.fixture
def store(tmp_path, empty_store):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"


def read(store):
    """Return the MLflow client, and all runs of the tuning experiment by key."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    names = {each.name for each in client.search_experiments()}
    assert "odd" not in names, "no leaderboard reads trials"
    experiment = client.get_experiment_by_name("odd · tuning")
    found = client.search_runs([experiment.experiment_id])
    by_key = {run.data.tags["key"]: run for run in found}
    assert len(by_key) == len(found), "each key once"
    return client, by_key


def test_every_end_state_has_its_mlflow_status(tuning, store, capsys):
    schedule, _ = tuning(store)
    (key,) = schedule.searches
    client, runs = read(store)
    parent = runs.pop(key)
    trials = schedule.trials(key)
    assert (parent.info.status, parent.data.tags["state"], parent.data.tags["role"]) == (
        "FINISHED",
        "finished",
        "search",
    )
    assert {run.data.tags[PARENT] for run in runs.values()} == {parent.info.run_id}
    assert {run.data.tags["role"] for run in runs.values()} == {"trial"}, "never a cell"
    assert sorted(int(run.data.tags["trial"]) for run in runs.values()) == [trial.number for trial in trials]
    status = {"finished": "FINISHED", "pruned": "KILLED", "refused": "KILLED", "failed": "FAILED", "diverged": "FAILED"}
    for run in runs.values():
        trial = trials[int(run.data.tags["trial"])]
        end = trial.user_attrs["end"]
        assert (run.info.status, run.data.tags["state"]) == (status[end["state"]], end["state"])
        assert run.data.tags.get("reason", "") == end["reason"]
        assert run.data.params == trial.params
        if end["state"] == "finished":
            assert run.data.metrics["value"] == trial.values[0]
        history = client.get_metric_history(run.info.run_id, "validation/nll")
        steps = {m.step: m.value for m in history}
        assert len(steps) == len(history)
        assert trial.intermediate_values.items() <= steps.items()
        if end["state"] == "finished":
            assert sorted(steps) == [1, 2, 3]
    ends = {trial.params["a"]: trial.user_attrs["end"]["state"] for trial in reversed(trials)}
    assert ends == {"good": "finished", "bad": "failed", "no": "refused", "nan": "diverged", "slow": "pruned"}
    assert "boo" in capsys.readouterr().out
    counts = {state: int(parent.data.tags[f"trials.{state}"]) for state in status}
    assert counts == {s: sum(t.user_attrs["end"]["state"] == s for t in trials) for s in status}
    assert float(parent.data.tags["best.value"]) == schedule.searches[key].best(trials).values[0]


def test_nothing_is_sent_twice_and_unsent_trials_are_sent_later(tuning, store, empty_store, tmp_path, capsys):
    away = "http://127.0.0.1:9"
    _, mirror = tuning(away, trials=2)
    assert mirror.unsent
    assert "warning: cannot use the tracking store http://127.0.0.1:9" in capsys.readouterr().out
    tuning(store, trials=2)
    client, runs = read(store)
    assert len(runs) >= 3
    before = {key: (run.info.end_time, run.data.tags, run.data.metrics) for key, run in runs.items()}
    tuning(store, trials=2)
    client, runs = read(store)
    assert {key: (run.info.end_time, run.data.tags, run.data.metrics) for key, run in runs.items()} == before
    for run in runs.values():
        history = client.get_metric_history(run.info.run_id, "validation/nll")
        assert len(history) == len({m.step for m in history})


def test_a_larger_budget_reopens_a_finished_search(tuning, store):
    tuning(store, trials=1)
    schedule, _ = tuning(store, trials=3)
    (key,) = schedule.searches
    _, runs = read(store)
    assert runs[key].info.status == "FINISHED"
    assert sum(int(v) for n, v in runs[key].data.tags.items() if n.startswith("trials.")) == len(schedule.trials(key))


def test_a_retried_trial_is_a_run_of_its_own(tmp_path, write_study, npz, store):
    """Two launches fail with the study's own values. The third retries them as a new trial, which finishes."""
    there = f'__import__("pathlib").Path({str(tmp_path / "mark")!r}).exists()'
    plugin = ODD.replace('a == "no"', "False").replace('self.a == "bad"', f"not {there}")
    (tmp_path / "odd.py").write_text(plugin)
    held_out = [{"name": f"npz:{npz}", "validation": 15, "corruptions": "none"}]
    study = load(str(write_study(tmp_path / "odd.yaml", datasets=held_out, methods=["odd"], plugins=["odd.py"])))
    searches = find_searches(study, "nll", 1000).searches
    for launch in range(3):
        if launch == 2:
            (tmp_path / "mark").touch()
        schedule = TrialSchedule(searches, tmp_path / "runs", Budget(1, 1.0))
        schedule.ensure_waiting()
        mirror = TuningMirror(store, "odd", tmp_path / "runs")
        with TuningDisplay(schedule, mirror, PlainConsole(width=200)) as show:
            Inline(1).run(schedule, Settings(tmp_path / "runs", plugins=study.plugins), show)
    client, runs = read(store)
    (key,) = schedule.searches
    found = [runs[f"{key}/{number}"] for number in range(3)]
    assert [(run.info.status, run.data.tags["state"]) for run in found] == [
        ("FAILED", "failed"),
        ("FAILED", "failed"),
        ("FINISHED", "finished"),
    ]
    assert [run.data.tags["trial"] for run in found] == ["0", "1", "2"]
    assert [run.data.tags.get("reason") for run in found] == ["ArithmeticError: boo"] * 2 + [None]
    assert [len(client.get_metric_history(run.info.run_id, "validation/nll")) for run in found] == [0, 0, 3]
    assert found[2].data.metrics["value"] == schedule.trials(key)[2].values[0]
    assert len(runs) == 4


def test_a_store_that_hangs_does_not_delay_tuning(tuning, store, tmp_path, monkeypatch):
    opened = threading.Event()
    connect = TuningMirror.connect

    def hang(self):
        opened.wait(60)
        connect(self)

    monkeypatch.setattr(TuningMirror, "connect", hang)
    schedule, sender = tuning(
        store, trials=2, before=lambda mirror: BackgroundMirror(mirror, send_seconds=0.01, open_seconds=0.01)
    )
    assert all(schedule.is_complete(key) for key in schedule.searches)
    assert sender.behind
    assert len(sender.unsent) == 1 + len(schedule.trials(next(iter(schedule.searches))))
    opened.set()
    sender.finish(60)
    assert sender.unsent == set()
    _, runs = read(store)
    (key,) = schedule.searches
    assert runs.keys() == {key, *(f"{key}/{trial.number}" for trial in schedule.trials(key))}
    assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED", "FAILED"}
