"""What `econ new-method` writes works as it is."""

import subprocess
import sys

import pytest

from harness.cli.new_method import files
from harness.engines import Inline
from harness.parsing.plugins import load_plugin


@pytest.mark.parametrize("name", ["my method", "MyMethod", "3d", "my-method", "", "class", "import", "_"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="is not a name in snake_case, like my_method"):
        files(name)


@pytest.mark.parametrize("name", ["swa", "torch", "json"])
def test_names_that_are_taken(name):
    with pytest.raises(ValueError, match="is the name of a method or of an installed package already"):
        files(name)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine")
    for name, text in files("input_noise").items():
        (path / name).write_text(text)
    return path


def test_the_files(written):
    assert {path.name for path in written.iterdir()} == {"input_noise.py", "test_input_noise.py"}
    assert list(load_plugin(written / "input_noise.py")) == ["input_noise"]
    assert load_plugin(written / "input_noise.py")["input_noise"].__name__ == "InputNoise"


@pytest.mark.long
def test_its_tests_pass(written, environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(written)]
    done = subprocess.run(command, cwd=written, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_it_trains_and_its_noise_counts(written, tmp_path, write_study, run_study, read_result):
    study = write_study(tmp_path / "s.yaml", methods=["sgd", "input_noise(sigma=0.0)", "swa(input_noise, start=1)"])
    done = run_study(study, tmp_path / "runs", Inline(1), plugins=[written / "input_noise.py"])
    assert not done.schedule.failed
    found = {str(p.run.method): read_result(tmp_path / "runs", key) for key, p in done.plan.runs.items()}
    plain, silent = found["sgd"], found["input_noise(sigma=0.0)"]
    assert (plain["epochs"], plain["metrics"]) == (silent["epochs"], silent["metrics"])
    assert found["swa(input_noise, start=1)"]["epochs"][0]["train/loss"] != plain["epochs"][0]["train/loss"]


def test_it_keeps_to_the_projects_style(written):
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,B,UP,ANN,D,N"]
    command += ["--config=lint.pydocstyle.convention='google'", "--ignore=N803,N806,D105,D107", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
