"""The mirror in MLflow: what it holds, that nothing is sent twice, and that training does not depend on it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.planning.plan import Plan
from harness.running.execute import record_failure
from harness.store.damaged_files import read_json
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, write_json, write_json_lines
from harness.studies.study import load
from harness.tracking import mlflow_mirror
from harness.tracking.mlflow_experiment import flatten
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.mlflow_store import store_uri


@pytest.fixture
def store(tmp_path, empty_store):
    """A store without runs."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, write_study, run_study, npz):
    """A finished study, evaluated on corrupted images too: its plan and its run folders."""
    path = tmp_path_factory.mktemp("finished")
    methods = ["sgd", {"two": "late_phase_bn(K=2, start=1, prediction=members)"}]
    study = write_study(path / "rows.yaml", datasets=[{"name": f"npz:{npz}"}], methods=methods)
    done = run_study(study, path / "runs")
    assert not done.schedule.failed
    return done.plan, path / "runs"


def send_all(store, plan, runs):
    mirror = Mirror(store, plan.study.name, runs)
    for planned in plan.runs.values():
        mirror.send(planned)
    assert mirror.problem == ""
    assert mirror.unsent == set()
    return mirror


def tracked(store, study="rows"):
    """The runs of a study by key."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id])
    by_key = {run.data.tags["key"]: run for run in runs}
    assert len(by_key) == len(runs), "one run a key"
    return client, by_key


def points(client, run, name):
    return sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name))


def check(store, plan, runs):
    """The store holds exactly what the folders hold."""
    client, by_key = tracked(store)
    assert by_key.keys() == plan.runs.keys()
    for key, run in by_key.items():
        planned, folder = plan.runs[key], RunFolder(runs, key)
        result = json.loads(folder.result.read_text())
        when = int(1000 * result["timing"]["finished"])
        tags = {
            "key": key,
            "label": planned.label,
            "role": "cell",
            "state": "finished",
            "method": str(planned.run.method),
            "method_version": str(planned.run.method.version),
            "dataset": "rows",
            "architecture": "lenet5",
            "seed": "0",
            "evaluated_on": "test",
            **result["provenance"],
        }
        assert {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")} == tags
        assert run.info.status == "FINISHED"
        assert run.info.end_time == when
        assert run.data.params["recipe.lr"] == "0.05"
        assert run.data.params["recipe.momentum"] == "0.9", "defaults too"
        assert run.data.params["method.name"] == planned.run.method.name
        for name in ("train/loss", "train/lr"):
            assert points(client, run, name) == [
                (line["epoch"], line[name], int(1000 * line["time"])) for line in folder.read_epochs()
            ]
        assert len(points(client, run, "train/loss")) == 3
        expected = dict(result["metrics"])
        for group in ("cost", "spent"):
            expected |= {f"{group}/{name}": value for name, value in result[group].items()}
        expected |= {n: v for n, v in result["timing"].items() if n != "finished" and v is not None}
        for name, value in expected.items():
            assert points(client, run, name) == [(0, float(value), when)], name
        for name, curve in result["members"].items():
            assert points(client, run, f"members/{name}") == [(k, v, when) for k, v in enumerate(curve, 1)]
        series = {f"members/{name}" for name in result["members"]} | {"train/loss", "train/lr"}
        assert set(run.data.metrics) == set(expected) | series
        for file in (folder.result, folder.predictions):
            there = Path(client.download_artifacts(run.info.run_id, file.name))
            assert there.read_bytes() == file.read_bytes()


def test_a_finished_study_is_tracked_as_the_analysis_reads_it(store, finished):
    send_all(store, *finished)
    check(store, *finished)


def test_a_choice_on_test_data_is_a_tag(store, finished, tmp_path):
    plan, runs = finished
    shutil.copytree(runs, tmp_path / "runs")
    chosen, other = plan.runs
    path = RunFolder(tmp_path / "runs", chosen).result
    write_json(path, {**read_json(path), "chosen_on": "test"})
    send_all(store, plan, tmp_path / "runs")
    _, by_key = tracked(store)
    assert by_key[chosen].data.tags["chosen_on"] == "test"
    assert "chosen_on" not in by_key[other].data.tags


def test_the_files_of_plugins_are_sent(store, finished, tmp_path):
    plan, runs = finished
    shutil.copytree(runs, tmp_path / "runs")
    own, other = plan.runs
    RunFolder(tmp_path / "runs", own).source.write_bytes(b"files")
    send_all(store, plan, tmp_path / "runs")
    client, by_key = tracked(store)
    sent = {key: {file.path for file in client.list_artifacts(by_key[key].info.run_id)} for key in plan.runs}
    assert sent[own] - sent[other] == {"source.zip"}


def test_sending_again_adds_nothing(store, finished):
    mirror = send_all(store, *finished)
    for planned in finished[0].runs.values():
        mirror.send(planned)
    check(store, *finished)
    send_all(store, *finished)
    check(store, *finished)


def test_what_was_sent_before_a_kill_is_not_sent_twice(store, finished, tmp_path):
    """Epochs, metrics and files are there, but not yet the tag that says so."""
    plan, runs = finished
    mirror = Mirror(store, "rows", runs)
    mirror.open()
    for key, planned in plan.runs.items():
        run_id, _ = mirror.create_run(planned)
        mirror.send_epochs(run_id, RunFolder(runs, key))
        mirror.send_result(run_id, RunFolder(runs, key), read_json(RunFolder(runs, key).result))
    send_all(store, plan, runs)
    check(store, plan, runs)


class KilledError(BaseException):
    """Simulates a kill: like Ctrl-C, it is no Exception."""


class ClientKilledAfter:
    """A client whose process is killed right after its n-th call."""

    def __init__(self, client, n):
        self.client, self.left = client, n

    def __getattr__(self, name):
        def call(*args, **kwargs):
            found = getattr(self.client, name)(*args, **kwargs)
            self.left -= 1
            if not self.left:
                raise KilledError
            return found

        return call


def test_after_a_kill_at_any_call_the_next_process_sends_the_rest(store, finished, tmp_path):
    plan, runs = finished
    kills, n = 0, 1
    for planned in plan.runs.values():
        while True:
            mirror = Mirror(store, "rows", runs)
            mirror.open()
            mirror.client = ClientKilledAfter(mirror.client, n)
            try:
                mirror.send(planned)
                break
            except KilledError:
                kills += 1
                # Sometimes one call further than before, sometimes killed early again.
                n = n + 1 if kills % 3 else 1 + kills // 3
    assert kills >= 7
    send_all(store, plan, runs)
    check(store, plan, runs)


@pytest.fixture
def planned(tmp_path, write_study):
    """A run whose folder is written by the test."""
    plan = Plan(load(str(write_study(tmp_path / "rows.yaml"))))
    (planned,) = plan.runs.values()
    return planned


def test_a_running_run_grows_epoch_by_epoch(store, planned, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_mirror, "LIVE_SECONDS", 0.0)
    folder = RunFolder(tmp_path / "runs", planned.run.key)
    lines = [{"epoch": e, "time": 1000.0 + e, "train/loss": 1 / e, "train/lr": 0.1} for e in (1, 2, 3)]
    mirror = Mirror(store, "rows", tmp_path / "runs")
    for n in (1, 3):
        write_json_lines(folder.metrics, lines[:n])
        mirror.send(planned, live=True)
        client, by_key = tracked(store)
        run = by_key[planned.run.key]
        assert points(client, run, "train/loss") == [(e, 1 / e, 1000 * (1000 + e)) for e in range(1, n + 1)]
        assert (run.info.status, run.data.tags["state"]) == ("RUNNING", "running")


def test_live_updates_are_rate_limited(store, planned, tmp_path):
    mirror = Mirror(store, "rows", tmp_path / "runs")
    folder = RunFolder(tmp_path / "runs", planned.run.key)
    write_json_lines(folder.metrics, [{"epoch": 1, "time": 1.0, "train/loss": 1.0, "train/lr": 0.1}])
    mirror.send(planned, live=True)
    write_json_lines(folder.metrics, [{"epoch": e, "time": e, "train/loss": 1.0, "train/lr": 0.1} for e in (1, 2)])
    mirror.send(planned, live=True)
    client, by_key = tracked(store)
    assert len(points(client, by_key[planned.run.key], "train/loss")) == 1


@pytest.mark.parametrize("state", ["failed", "diverged"])
def test_a_failed_run_and_its_second_try(store, planned, tmp_path, state):
    folder = RunFolder(tmp_path / "runs", planned.run.key)
    record_failure(folder, Outcome(state, "ValueError: " + 5000 * "x"), "trace")
    mirror = Mirror(store, "rows", tmp_path / "runs")
    mirror.send(planned)
    _, by_key = tracked(store)
    run = by_key[planned.run.key]
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", state)
    assert run.data.tags["reason"] == ("ValueError: " + 5000 * "x")[:4000]
    folder.failure.unlink()
    mirror.send(planned)
    _, by_key = tracked(store)
    assert (by_key[planned.run.key].info.status, by_key[planned.run.key].data.tags["state"]) == ("RUNNING", "running")


def test_a_run_killed_between_its_creation_and_its_parameters_gets_them(store, planned, tmp_path):
    mirror = Mirror(store, "rows", tmp_path / "runs")
    mirror.open()
    mirror.create_run(planned)
    again = Mirror(store, "rows", tmp_path / "runs")
    again.send(planned)
    _, by_key = tracked(store)
    assert by_key[planned.run.key].data.params["recipe.epochs"] == "3"


MAKE = (
    "import sys; from pathlib import Path; from harness.tracking.mlflow_mirror import Mirror\n"
    "Mirror(sys.argv[1], 's', Path('x')).open()"
)


@pytest.mark.long
def test_a_database_killed_during_its_creation_is_created_again(tmp_path, environment):
    database = tmp_path / "new" / "mlflow.db"
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE, f"sqlite:///{database}"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    while not list(database.parent.glob("*mlflow.db*tmp")) and child.poll() is None:
        time.sleep(0.005)
    time.sleep(0.25)
    child.kill()
    child.wait()
    mirror = Mirror(f"sqlite:///{database}", "s", tmp_path)
    mirror.open()
    assert mirror.problem == ""
    assert MlflowClient(f"sqlite:///{database}").get_experiment_by_name("s")


@pytest.mark.parametrize(
    "away", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db", "sqlite:///{tmp}/broken.db", "nonsense://x"]
)
def test_an_unavailable_store_is_a_problem_but_no_error(away, finished, store, tmp_path, monkeypatch):
    (tmp_path / "broken.db").write_text("not a database " * 100)
    plan, runs = finished
    away = away.format(tmp=tmp_path)
    mirror = Mirror(away, "rows", runs)
    start = time.monotonic()
    mirror.open()
    assert mirror.problem.startswith(f"cannot use the tracking store {away}: ")
    tries = []
    monkeypatch.setattr(mirror, "connect", lambda: tries.append(1))
    for planned in plan.runs.values():
        mirror.send(planned)
    assert tries == [], "an unavailable store is not tried again for a while"
    assert mirror.unsent == set(plan.runs)
    assert time.monotonic() - start < 30


def test_a_store_that_comes_back_gets_everything(store, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_mirror, "RETRY_SECONDS", 0.0)
    plan, runs = finished
    blocked = tmp_path / "later"
    blocked.write_text("a file where the folder should be")
    mirror = Mirror(f"sqlite:///{blocked / 'mlflow.db'}", "rows", runs)
    for planned in plan.runs.values():
        mirror.send(planned)
    assert mirror.unsent == set(plan.runs)
    blocked.unlink()
    blocked.mkdir()
    shutil.copy(store.removeprefix("sqlite:///"), blocked / "mlflow.db")
    for planned in plan.runs.values():
        mirror.send(planned)
    assert mirror.unsent == set()
    assert mirror.problem == ""
    check(mirror.store, plan, runs)


def test_store_uri(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    assert store_uri(None, tmp_path) == "http://somewhere"
    monkeypatch.chdir(tmp_path)
    assert store_uri("mine.db", tmp_path) == f"sqlite:///{tmp_path}/mine.db"
    assert store_uri("sqlite:///x/y.db", tmp_path) == f"sqlite:///{tmp_path}/x/y.db"
    assert store_uri("sqlite:////x/y.db", tmp_path) == "sqlite:////x/y.db"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert store_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_reading_a_file_that_is_removed_at_this_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(type(tmp_path), "exists", lambda self: True)
    assert read_json(tmp_path / "progress.json") == {}
    write_json(tmp_path / "progress.json", {"epoch": 1})
    assert read_json(tmp_path / "progress.json") == {"epoch": 1}


def test_flatten():
    assert flatten({"a": 1, "b": {"c": None, "d": {"e": [1]}}}) == {"a": 1, "b.c": None, "b.d.e": [1]}


def test_two_drivers_make_one_run_of_a_key(store, finished):
    """Both learn what the store has before either sends anything."""
    plan, runs = finished
    mirrors = [Mirror(store, "rows", runs) for _ in range(2)]
    for mirror in mirrors:
        mirror.open()
    for planned in plan.runs.values():
        for mirror in mirrors:
            mirror.send(planned)
    assert [mirror.problem for mirror in mirrors] == ["", ""]
    check(store, plan, runs)


def test_a_run_the_store_rejects_does_not_hold_up_the_others(store, finished, monkeypatch):
    plan, runs = finished
    mirror = Mirror(store, "rows", runs)
    mirror.open()
    first, *rest = plan.runs.values()
    send = mirror.log
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "log", lambda run_id, points: send(run_id, [("caf(é)", 1.0, 0.0, 0), *points]))
        mirror.send(first)
    assert "caf" in mirror.problem
    assert mirror.unsent == {first.run.key}
    for planned in rest:
        mirror.send(planned)
    assert mirror.unsent == {first.run.key}
    assert "caf" in mirror.problem, "it is still said why, after others were sent"
    mirror.send(first)
    assert (mirror.unsent, mirror.problem) == (set(), "")
