"""Kill a study's driver and workers at random, and restart it: the results are those of an uninterrupted study."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from harness.planning.plan import Plan
from harness.planning.trunks import TrunkRun
from harness.store.run_folder import RunFolder
from harness.studies.study import load

STUDY = {
    "datasets": [{"name": "digits", "train_size": 200, "corruptions": "none", "ood": []}],
    "architectures": ["lenet5"],
    "seeds": [0, 1, 2],
    "recipe": {"epochs": 6, "batch_size": 16, "lr": 0.05},
    "methods": [
        "sgd",
        "swa(late_phase_bn(K=2, start=1), start=3)",
        "snapshot(M=2)",
        "mc_dropout(K=2)",
        "deep_ensemble(K=2)",
    ],
}
RUNS = 18
"""Number of runs. Three of them are seeds of plain training that only the ensembles need."""
OPTIONS = {"processes": ["--workers", "2"], "ray": ["--workers", "2"]}
"""Options that start two workers, for each engine."""
WORKER_COMMAND = {"processes": b"spawn_main", "ray": b"ray::Worker"}
"""Text in the command line of a worker, but not of the other descendants of the driver."""
DRIVER_KILLS = {"processes": 2, "ray": 2}
"""How many drivers are killed: at least two, one alone and one with its workers. Ray takes long to start one."""
WORKER_KILLS = 2
"""How many workers of each driver are killed before the driver. A run that loses three workers of a driver fails."""
PROGRESS_FILES = ("checkpoint.pt", "progress.json", "result.json")


def any_progress(runs: Path, since: float) -> bool:
    """Check whether some run made progress since a time."""
    for name in PROGRESS_FILES:
        for path in runs.rglob(name):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime > since:
                    return True
    return False


def processes() -> Iterator[SimpleNamespace]:
    """Yield the running processes."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX":
                line = (path / "cmdline").read_bytes()
                yield SimpleNamespace(number=int(path.name), parent=int(parent), group=int(group), line=line)


def descendants(driver: int) -> list[SimpleNamespace]:
    """List the running descendants of a process."""
    everything, found, parents = list(processes()), [], {driver}
    while children := [process for process in everything if process.parent in parents]:
        found += children
        parents = {process.number for process in children}
    return found


class Chaos:
    """Starts drivers of a study, and kills them and their workers at random times."""

    def __init__(self, command: list[str], runs: Path, worker_command: bytes, **options: object) -> None:
        self.command, self.runs, self.worker_command, self.options = command, runs, worker_command, options
        self.output = runs.parent / "output.txt"
        self.draw = random.Random(8)
        self.started: set[int] = set()
        self.killed = 0

    def launch(self) -> None:
        """Start a driver."""
        with self.output.open("wb") as file:
            self.driver = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **self.options
            )
        self.started.add(self.driver.pid)

    def wait(self, *, soon: bool) -> None:
        """Wait for a random time; if `soon`, until shortly after some run has made progress."""
        now = time.time()
        if soon:
            while self.driver.poll() is None and not any_progress(self.runs, now):
                time.sleep(0.01)
            time.sleep(self.draw.uniform(0.0, 0.4))
        else:
            done, end = self.finished(), now + self.draw.uniform(0.3, 3.0)
            while time.time() < end and self.finished() == done:  # so that a fast machine leaves work to lose
                time.sleep(0.01)
        assert self.driver.poll() is None, f"nothing was left to kill: {self.output.read_text()}"

    def finished(self) -> int:
        """Count the runs and trunks that are finished."""
        return len(list(self.runs.rglob("result.json")))

    def kill_worker(self) -> None:
        """Kill one worker, if there is one."""
        found = [process.number for process in descendants(self.driver.pid) if self.worker_command in process.line]
        if found:
            with suppress(ProcessLookupError):
                os.kill(self.draw.choice(found), signal.SIGKILL)
                self.killed += 1

    def kill_driver(self, *, alone: bool) -> None:
        """Kill the driver; unless `alone`, its workers too."""
        if alone:
            self.driver.kill()
        else:
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def finish(self) -> str:
        """Start a last driver, and wait for it. Return its output."""
        self.launch()
        assert self.driver.wait(timeout=300) == 0, self.output.read_text()
        return self.output.read_text()

    def left(self) -> list[int]:
        """List the running processes of all drivers."""
        return [process.number for process in processes() if process.group in self.started]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("chaos") / "chaos.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture(scope="module")
def reference(study, tmp_path_factory, run_study):
    """Execute the study without kills. Return its run folders."""
    runs = tmp_path_factory.mktemp("never killed")
    assert not run_study(study, runs).schedule.failed
    return runs


@pytest.mark.long
@pytest.mark.parametrize("engine", OPTIONS)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_study_killed_at_any_time_ends_with_the_same_results(
    engine, tmp_path, econ, environment, study, reference, read_result
):
    plan = Plan(load(str(study)), share=True)
    assert len(plan.without_trunks) == RUNS
    runs = tmp_path / "runs"
    options = ["--engine", engine, *OPTIONS[engine], "--threads", "1", "--checkpoint-seconds", "0"]
    command = [*econ, "run", str(study), "--runs", str(runs), *options]
    chaos = Chaos(command, runs, WORKER_COMMAND[engine], env=environment, cwd=tmp_path)
    for i in range(DRIVER_KILLS[engine]):
        chaos.launch()
        for k in range(WORKER_KILLS):
            chaos.wait(soon=(i + k) % 2 == 0)
            chaos.kill_worker()
        chaos.wait(soon=i % 2 == 0)
        chaos.kill_driver(alone=i % 2 == 0)
    assert chaos.killed >= DRIVER_KILLS[engine]
    assert plan.finished(runs) != set(plan.runs), "there was work left to lose"
    chaos.finish()
    deadline = time.monotonic() + 30
    while chaos.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert chaos.left() == [], "workers outlived their driver"

    for key in plan.without_trunks:
        assert read_result(runs, key) == read_result(reference, key), plan.runs[key].run
        assert not RunFolder(runs, key).failure.exists()
        assert not RunFolder(runs, key).progress.exists()
        assert not RunFolder(runs, key).is_claimed()
        assert not list(RunFolder(runs, key).path.glob(".*"))
    check_store(runs, plan)

    times = {path: path.stat().st_mtime_ns for path in runs.glob("*/*")}
    output = chaos.finish()
    assert f"all {RUNS} runs are finished" in output
    assert "finished in" not in output
    assert {path: path.stat().st_mtime_ns for path in runs.glob("*/*")} == times
    check_store(runs, plan)


def check_store(runs: Path, plan: Plan) -> None:
    """Check that the store has every run once, and each of its metrics once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("chaos")
    assert experiment is not None
    tracked = client.search_runs([experiment.experiment_id])
    assert Counter(run.data.tags["key"] for run in tracked) == Counter(plan.runs.keys())
    for run in tracked:
        folder = RunFolder(runs, run.data.tags["key"])
        result = json.loads(folder.result.read_text())
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "finished")
        trunk = plan.runs[folder.key].role == "trunk"
        assert run.data.params["run.seed" if trunk else "seed"] == str(seed_of(plan.runs[folder.key].run))
        for name in ("train/loss", "train/lr"):
            expected = [(line["epoch"], line[name], int(1000 * line["time"])) for line in folder.read_epochs()]
            found = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
            assert sorted(found) == expected, (name, plan.runs[folder.key].run)
        for name, value in result["metrics"].items():
            assert [m.value for m in client.get_metric_history(run.info.run_id, name)] == [value]
        for name, curve in result["members"].items():
            history = client.get_metric_history(run.info.run_id, f"members/{name}")
            assert sorted((m.step, m.value) for m in history) == list(enumerate(curve, start=1))
        kept = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert kept == {"result.json"} | (set() if trunk else {"predictions.npz"})


def seed_of(run) -> int:
    return (run.run if isinstance(run, TrunkRun) else run).seed
