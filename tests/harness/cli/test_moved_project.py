"""Projects that were moved, and experiments that were deleted: everything is found again, or the message says how."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from analysis import load_predictions, load_runs
from harness.tracking.mlflow_store import sqlite_uri


def places(project):
    """Return where MLflow looks for the artifacts of the study and of its runs."""
    with sqlite3.connect(project / "runs" / "mlflow.db") as database:
        (study,) = database.execute("SELECT artifact_location FROM experiments WHERE name = 's'").fetchone()
        return study, *(run for (run,) in database.execute("SELECT artifact_uri FROM runs"))


def test_arrays_are_found_beside_the_store(project):
    assert load_predictions(load_runs("s"))
    assert load_predictions(load_runs("s", store=sqlite_uri(project / "runs" / "mlflow.db")))


def test_sync_tells_mlflow_where_the_artifacts_lie(project, moved_project, run_here):
    assert all(str(moved_project.with_name("first")) in place for place in places(project))
    assert run_here("sync", "s.yaml")[0] == 0
    study, *runs = places(project)
    assert study == (project / "runs" / "artifacts" / "s").as_uri()
    for run in runs:
        assert run.startswith(study + "/") and run.endswith("/artifacts")
        assert MlflowClient(sqlite_uri(project / "runs" / "mlflow.db")).list_artifacts(run.split("/")[-2])
    assert not moved_project.with_name("first").exists()


@pytest.mark.long
def test_new_runs_are_stored_in_the_new_place(project, moved_project, run_here, write_study):
    write_study(Path("s.yaml"), methods=["sgd"], seeds=[1])
    assert run_here("run", "s.yaml")[0] == 0
    assert all(place.startswith(project.as_uri()) for place in places(project))
    assert len(list(Path("runs/artifacts/s").glob("*/artifacts/predictions.npz"))) == 3
    assert not moved_project.with_name("first").exists()


@pytest.mark.long
def test_a_place_that_is_still_there_stays(project, moved_project, run_here):
    old = moved_project.with_name("first")
    (old / "runs" / "artifacts" / "s").mkdir(parents=True)
    try:
        before = places(project)
        assert run_here("sync", "s.yaml")[0] == 0
        assert places(project) == before
    finally:
        shutil.rmtree(old)


@pytest.mark.long
def test_lost_artifacts_are_sent_again(project, run_here):
    shutil.rmtree("runs/artifacts")
    with pytest.raises(FileNotFoundError, match=r"no predictions of .*; `econ sync STUDY --artifacts` sends it again"):
        load_predictions(load_runs("s"))
    assert run_here("sync", "s.yaml")[0] == 0
    assert not list(Path("runs/artifacts").glob("s/*/artifacts/predictions.npz"))
    assert run_here("sync", "s.yaml", "--artifacts")[0] == 0
    assert load_predictions(load_runs("s"))


@pytest.mark.long
def test_plot_draws_what_it_can(project, run_here):
    shutil.rmtree("runs/artifacts")
    code, out, err = run_here("plot", "s.yaml", "-o", "plots")
    assert code == 1 and "no plot reliability: no predictions of" in out
    assert Path("plots/cost.pdf").exists() and not err


def test_a_deleted_experiment_is_named_with_the_way_back(project, run_here):
    client = MlflowClient(sqlite_uri(project / "runs" / "mlflow.db"))
    number = client.get_experiment_by_name("s").experiment_id
    client.delete_experiment(number)
    restore = f"`mlflow experiments restore --experiment-id {number}` brings it back"
    for command in ("sync", "leaderboard", "report"):
        code, out, err = run_here(command, "s.yaml")
        assert code == 2 and restore in (out + err).replace("\n", " "), command
    client.restore_experiment(number)
    assert run_here("leaderboard", "s.yaml")[0] == 0
