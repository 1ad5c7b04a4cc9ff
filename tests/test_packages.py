"""The five top-level packages have common names: each must be ours, and nobody else's too."""

import ast
import importlib
import importlib.metadata
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("methods", "models", "data", "harness", "analysis")


@pytest.mark.parametrize("name", PACKAGES)
def test_name_resolves_inside_the_repository(name):
    module = importlib.import_module(name)
    assert Path(module.__file__).is_relative_to(ROOT)
    assert (ROOT / name / "py.typed").exists()


@pytest.fixture(scope="module")
def owners() -> dict[str, list[str]]:
    """The distributions of each package; looking for them reads the metadata of all that is installed."""
    return dict(importlib.metadata.packages_distributions())


@pytest.mark.parametrize("name", PACKAGES)
def test_name_belongs_to_one_distribution(name, owners):
    assert set(owners.get(name, [])) <= {"economical-ensembles"}
    others = [
        Path(path, name)
        for path in sys.path
        if path and Path(path).resolve() != ROOT and (Path(path, name).is_dir() or Path(path, f"{name}.py").exists())
    ]
    assert others == [], "another package of this name is on the path"


def imports(folder: str) -> dict[Path, set[str]]:
    """The top-level names that each file of a package imports."""
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        found[path] = {name.split(".")[0] for name in names}
    return found


FORBIDDEN = {
    "methods": {"harness", "analysis", "models", "data"},
    "models": {"harness", "analysis", "methods", "data"},
    "data": {"harness", "analysis", "methods", "models"},
    "analysis": {"harness", "methods", "models", "data"},
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_imports_point_one_way(name):
    for path, names in imports(name).items():
        assert not names & FORBIDDEN[name], path


def test_only_the_tracking_files_and_the_reader_import_mlflow():
    users = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path, names in imports(name).items()
        if "mlflow" in names
    }
    assert users == {
        "harness/tracking/mlflow_experiment.py",
        "harness/tracking/mlflow_store.py",
        "analysis/frame/runs.py",
        "analysis/frame/tracking_store.py",
    }
