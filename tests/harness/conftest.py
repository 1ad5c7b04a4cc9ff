"""Fixtures: a tiny dataset, studies on it, and functions that run them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from harness.cli import app as cli
from harness.cli import options as cli_options
from harness.engines import Inline
from harness.parsing.method_expression import parse_method
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.run import DatasetSpec, Run
from harness.studies.study import load, with_digest
from methods import METHODS, Recipe

os.environ |= {"RAY_worker_niceness": "0"}  # at Ray's default, 15, its workers would starve beside other tests
RECIPE = {"epochs": 3, "batch_size": 16, "lr": 0.05}
N_TRAIN, N_TEST = 60, 24


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 60 + 24 images, 8 x 8, of three classes with different bright rows, and noise as OOD dataset."""
    random = np.random.default_rng(0)

    def images(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 3
        x = random.integers(0, 120, (n, 8, 8))
        for i, c in enumerate(y):
            x[i, 2 * c : 2 * c + 3] += 100
        return x.astype(np.uint8), y

    (x_train, y_train), (x_test, y_test) = images(N_TRAIN), images(N_TEST)
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    noise = random.integers(0, 256, (10, 8, 8), dtype=np.uint8)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, ood_noise=noise)
    return path


@pytest.fixture(scope="session")
def make_run(npz: Path) -> Callable[..., Run]:
    """Return a function that makes the spec of a small run: `make_run("swa(start=1)", seed=2, epochs=4)`."""

    def make(
        method: str = "sgd", seed: int = 0, methods: Any = METHODS, run: dict[str, Any] | None = None, **recipe: Any
    ) -> Run:
        spec, errors = parse_method(method, methods)
        assert spec, errors
        return Run(
            dataset=with_digest(DatasetSpec(name=f"npz:{npz}", corruptions="none")),  # 75 of them take most of the time
            architecture="lenet5",
            method=spec,
            seed=seed,
            recipe=Recipe(**(RECIPE | recipe)),
            **(run or {}),
        )

    return make


@pytest.fixture(scope="session")
def write_study(npz: Path) -> Callable[..., Path]:
    """Return a function that writes a study's YAML: `write_study(tmp_path / "s.yaml", seeds=[0, 1])`."""

    def write(path: Path, **changes: Any) -> Path:
        raw = {
            "datasets": [{"name": f"npz:{npz}", "corruptions": "none"}],
            "architectures": ["lenet5"],
            "seeds": [0],
            "recipe": RECIPE,
            "methods": ["sgd"],
            **changes,
        }
        path.write_text(
            yaml.safe_dump({key: value for key, value in raw.items() if value is not None}, sort_keys=False)
        )
        return path

    return write


class EventLog:
    """A `RunObserver` that records events."""

    def __init__(self) -> None:
        self.starts: list[str] = []
        self.ends: list[tuple[str, str]] = []
        self.ticks = 0

    def started(self, planned: Any) -> None:
        self.starts.append(self.name(planned))

    def ended(self, planned: Any, outcome: Any) -> None:
        self.ends.append((self.name(planned), outcome.state))

    @staticmethod
    def name(planned: Any) -> str:
        return "trunk" if planned.role == "trunk" else str(planned.run.method)

    def tick(self) -> None:
        self.ticks += 1


@pytest.fixture
def log() -> EventLog:
    return EventLog()


@pytest.fixture(scope="session")
def run_study() -> Callable[..., SimpleNamespace]:
    """Return a function that runs what is left of a study, and returns its plan, schedule, settings and log."""

    def run(
        study: Path, runs: Path, engine: Any = None, observer: Any = None, share: bool = False, **settings: Any
    ) -> SimpleNamespace:
        plugins = settings.pop("plugins", ())
        loaded = load(str(study), plugins)
        plan = Plan(loaded, share=share)
        schedule = Schedule(plan.runs, plan.finished(runs))
        made = Settings(runs, checkpoint_seconds=0.0, plugins=plan.study.plugins, **settings)
        observer = observer or EventLog()
        (engine or Inline(1)).run(schedule, made, observer)
        return SimpleNamespace(study=loaded, plan=plan, schedule=schedule, settings=made, log=observer)

    return run


@pytest.fixture(scope="session")
def read_result() -> Callable[..., dict[str, Any]]:
    """Return a function that reads the parts of a run folder that must not depend on interruptions."""

    def read(runs: Path, key: str) -> dict[str, Any]:
        folder = RunFolder(runs, key)
        result = json.loads(folder.result.read_text())
        del result["timing"], result["spent"], result["provenance"]
        for cost in result.get("cost_by_run", {}).values():
            del cost["train_seconds"]
            cost.pop("peak_memory_bytes", None)
        epochs = [{name: v for name, v in line.items() if name != "time"} for line in folder.read_epochs()]
        return {**result, "epochs": epochs, "predictions": folder.predictions.read_bytes()}

    return read


@pytest.fixture(scope="session")
def econ() -> list[str]:
    """Return the command that starts the command line in a process of its own."""
    return [sys.executable, "-m", "harness.cli"]


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line in this process. It returns the exit code and both outputs."""
    monkeypatch.setattr(cli_options.console, "_width", 200)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["econ", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def call(econ: list[str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs the command line in a process, and waits for it."""

    def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*econ, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, **options
        )

    return run


def project() -> Path:
    """Return the root of the repository."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return environment variables: one thread, wide lines, no tracking server, and the packages on the path."""
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(project())}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Create an empty MLflow database once. Tests copy it, which is much faster than creating one."""
    from harness.tracking.mlflow_mirror import Mirror

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(empty_database, path)
    mirror = Mirror(f"sqlite:///{path}", "unused", path.parent)
    mirror.open()
    assert not mirror.problem
    return path
