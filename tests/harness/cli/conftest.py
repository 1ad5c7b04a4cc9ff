"""A study with its tracked runs, trained once for the tests of what happens to such folders later."""

import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service import utils as mlflow_service

from harness.store import damaged_files


@pytest.fixture(scope="session")
def moved_project(
    tmp_path_factory: pytest.TempPathFactory,
    write_study: Callable[..., Path],
    call: Callable[..., Any],
    empty_store: Path,
) -> Path:
    """Train a study of two methods in a folder, which is moved afterwards: s.yaml and runs/ with mlflow.db."""
    place = tmp_path_factory.mktemp("trained") / "first"
    (place / "runs").mkdir(parents=True)
    shutil.copy(empty_store, place / "runs" / "mlflow.db")
    evaluate = {"path": {"points": 3}, "each_epoch": ["test"]}
    write_study(place / "s.yaml", methods=["sgd", "late_phase_bn(K=2, start=1)"], evaluate=evaluate)
    done = call("run", place / "s.yaml", "--runs", place / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    return place.rename(place.with_name("moved"))


@pytest.fixture
def project(moved_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy that folder; the copy is the current folder."""
    folder = tmp_path / "a 50% prüfung?"  # a store's URI must quote it
    shutil.copytree(moved_project, folder)
    monkeypatch.chdir(folder)
    damaged_files.NAMED.clear()
    # MLflow keeps for the life of a process where the artifacts of a run are, and the copies hold the same runs.
    monkeypatch.setattr(mlflow_service, "_artifact_repos_cache", OrderedDict())
    return folder
