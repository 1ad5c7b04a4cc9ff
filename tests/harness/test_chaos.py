"""Kill a study again and again, at any moment, and start it again: it ends as if nothing had happened."""

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

import pytest
import yaml

from harness.folder import RunFolder
from harness.plan import Plan
from harness.study import load
from harness.trunks import Trunk

STUDY = {
    "datasets": [{"name": "digits", "train_size": 200}],
    "architectures": ["lenet5"],
    "seeds": [0, 1],
    "recipe": {"epochs": 6, "batch_size": 16, "lr": 0.05},
    "methods": [
        "sgd",
        "swa(late_phase_bn(K=2, start=1), start=3)",
        "snapshot(M=2)",
        "mc_dropout(K=2)",
        "deep_ensemble(K=2)",
    ],
}
KILLS = 10
MARKS = ("checkpoint.pt", "progress.json", "result.json")


def activity(runs: Path, since: float) -> bool:
    """Whether some run went on since then."""
    for mark in MARKS:
        for path in runs.glob(f"*/{mark}"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime > since:
                    return True
    return False


def alive(groups: set[int]) -> Iterator[int]:
    """The processes of these groups that still run."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if int(group) in groups and state not in "ZX":
                yield int(path.parent.name)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_killed_at_any_moment_a_study_ends_as_if_never_killed(tmp_path, econ, environment, run_study, read_result):
    study = tmp_path / "chaos.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    plan = Plan(load(str(study)), share=True)
    reference, runs = tmp_path / "never killed", tmp_path / "runs"
    assert not run_study(study, reference).schedule.failed

    options = ["--engine", "processes", "--workers", "2", "--threads", "1", "--checkpoint-seconds", "0"]
    command = [*econ, "run", str(study), "--runs", str(runs), *options]
    draw = random.Random(8)
    groups: set[int] = set()
    output = tmp_path / "output.txt"

    def launch() -> subprocess.Popen[bytes]:
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        groups.add(process.pid)
        return process

    for i in range(KILLS):
        start = time.time()
        process = launch()
        if i % 2:  # some of the kills come soon after training went on, the others anywhere
            while process.poll() is None and not activity(runs, start):
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.6))
        else:
            time.sleep(draw.uniform(0.5, 6.0))
        assert process.poll() is None, f"nothing was left to kill at kill {i}: {output.read_text()}"
        if i % 5 == 3:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()

    process = launch()
    assert process.wait(timeout=120) == 0, output.read_text()
    deadline = time.monotonic() + 30
    while list(alive(groups)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(alive(groups)) == [], "workers outlived their driver"

    for key in plan.alone:
        assert read_result(runs, key) == read_result(reference, key), plan.runs[key].run
        assert not RunFolder(runs, key).failure.exists()
        assert not RunFolder(runs, key).progress.exists()
    check_store(runs, plan)

    times = {path: path.stat().st_mtime_ns for path in runs.glob("*/*") if path.name != "lock"}
    process = launch()
    assert process.wait(timeout=60) == 0
    assert f"all {len(plan.alone)} runs are finished" in output.read_text()
    assert "finished in" not in output.read_text()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    check_store(runs, plan)


def check_store(runs: Path, plan: Plan) -> None:
    """The store holds every run once, and each of its metrics once."""
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
    return (run.run if isinstance(run, Trunk) else run).seed
