"""A local SQLite store read without MLflow gives what MLflow's client gives."""

import math
import sqlite3
import subprocess
import sys

import pytest

from analysis import load_runs
from analysis.frame.sqlite_store import SqliteStore
from analysis.frame.tracking_store import MlflowStore, open_store


def test_a_local_store_is_read_without_mlflow(store, frame, tmp_path):
    assert isinstance(open_store(store.uri), SqliteStore)
    code = "import sys; from analysis import load_runs; print(len(load_runs('paper', store=sys.argv[1])), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, store.uri], capture_output=True, text=True, check=True)
    count, *modules = done.stdout.split()
    assert int(count) == len(frame) and not {"mlflow", "sqlalchemy", "torch"} & set(modules)


def test_runs_are_those_of_the_client(store, frame):
    ours, theirs = open_store(store.uri), MlflowStore(store.uri)
    assert ours.experiments() == theirs.experiments()
    for number in theirs.experiments().values():
        wanted = {run.info.run_id: run for run in theirs.runs(number)}
        found = {run.info.run_id: run for run in ours.runs(number)}
        assert found.keys() == wanted.keys()
        for run_id, run in found.items():
            other = wanted[run_id]
            assert run.data.tags == other.data.tags and run.data.params == other.data.params
            assert run.data.metrics.keys() == other.data.metrics.keys()
            for name, value in run.data.metrics.items():
                assert value == other.data.metrics[name] or (math.isnan(value) and math.isnan(other.data.metrics[name]))
            for name in ("status", "start_time", "end_time", "artifact_uri"):
                assert getattr(run.info, name) == getattr(other.info, name), name
            assert str(run.info.experiment_id) == str(other.info.experiment_id)


def test_histories_are_those_of_the_client(store, frame):
    ids = list(frame["run_id"])
    ours, theirs = open_store(store.uri), MlflowStore(store.uri)
    for name in ("members/accuracy", "train/loss"):
        wanted = theirs.histories(ids, name)
        assert sorted(ours.histories(ids, name)) == sorted(wanted)
    assert theirs.histories(ids, "members/accuracy")


def test_a_nan_is_read_as_one(store):
    run_id, _ = store.add("nan", "sgd", 0, metrics={"accuracy": 1.0, "ece": float("nan")})
    (run,) = open_store(store.uri).runs(open_store(store.uri).experiments()["nan"])
    assert run.info.run_id == run_id
    assert math.isnan(run.data.metrics["ece"]) and run.data.metrics["accuracy"] == 1.0


def test_a_store_with_other_tables_is_read_by_mlflow(store, frame, monkeypatch):
    monkeypatch.setitem(sys.modules["analysis.frame.sqlite_store"].COLUMNS, "runs", ("run_uuid", "of_the_future"))
    assert isinstance(open_store(store.uri), MlflowStore)
    monkeypatch.setattr("analysis.frame.tracking_store._PAGE_SIZE", 4)
    again = load_runs("paper", store=store.uri)
    assert again["run_id"].tolist() == frame["run_id"].tolist() and again.equals(frame)


def test_what_is_no_database_is_named(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_text("not a database, but a text that is long enough to be looked at" * 20)
    with pytest.raises(ConnectionError, match=r"cannot read the tracking store .*mlflow\.db: file is not a database"):
        load_runs("paper", store=str(file))


def test_reading_changes_nothing(store, frame):
    path = store.uri.removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        before = database.execute("PRAGMA data_version").fetchone()
        load_runs("paper", store=store.uri)
        assert database.execute("PRAGMA data_version").fetchone() == before
