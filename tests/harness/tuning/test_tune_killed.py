"""Kill and restart `econ tune` at random: the results are those of uninterrupted tuning."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.studies.study import load
from harness.tuning.study_searches import find_searches
from harness.tuning.trial_journal import Journal, trial_end

STUDY = {
    "datasets": [{"name": "digits", "train_size": 200}],
    "architectures": ["lenet5"],
    "seeds": [0, 1],
    "recipe": {"epochs": 6, "batch_size": 16, "lr": 0.05},
    "methods": ["dropout", "swa(late_phase_bn(K=2, start=1))"],
}
TRIALS = 5


def history(study, runs):
    """Return what must not depend on interruptions: all that the journals have of the trials."""
    found = {}
    for search in find_searches(load(str(study)), "nll", 1000).searches:
        journal = Journal(runs, search.key, "nll")
        found[str(search.run.method)] = [
            (t.number, t.state, t.params, t.values, t.intermediate_values, trial_end(t)) for t in journal.trials()
        ]
    return found


def tracked(runs):
    """Return the status, tags and metrics of every MLflow run of tuning by key, and how often each key occurs."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("killed · tuning")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return {
        run.data.tags["key"]: (
            run.info.status,
            run.data.tags["state"],
            run.data.tags.get("reason"),
            [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "validation/nll")],
            run.data.metrics.get("value"),
        )
        for run in found
    }, Counter(run.data.tags["key"] for run in found)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
@pytest.mark.parametrize(("workers", "kills"), [(1, 5), (2, 1)])
def test_killed_tuning_ends_with_the_same_results(tmp_path, econ, environment, empty_store, workers, kills):
    study = tmp_path / "killed.yaml"
    study.write_text(yaml.safe_dump(STUDY))

    def command(runs: Path) -> list[str]:
        options = ["--trials", TRIALS, "--threads", 1, "--checkpoint-seconds", 0, "--workers", workers]
        return [*econ, "tune", *map(str, [study, *options, "--runs", runs, "--output", runs / "chosen.yaml"])]

    def launch(runs: Path) -> subprocess.Popen[bytes]:
        with (tmp_path / "output.txt").open("wb") as file:
            return subprocess.Popen(
                command(runs), env=environment, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    whole, runs = tmp_path / "whole", tmp_path / "runs"
    for folder in (whole, runs):
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
    if workers == 1:  # with several workers, results depend on the order in which trials end
        assert launch(whole).wait(timeout=300) == 0, (tmp_path / "output.txt").read_text()
    draw = random.Random(3)
    killed = 0
    for i in range(kills):
        before = journal_size(runs)
        process = launch(runs)
        while process.poll() is None and journal_size(runs) == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5))
        if process.poll() is not None:
            break  # on a fast machine nothing is left to kill
        killed += 1
        if i % 3 == 2:
            os.killpg(process.pid, signal.SIGINT)
        elif i % 3 == 1:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    assert killed >= (kills + 1) // 2
    assert launch(runs).wait(timeout=300) == 0, (tmp_path / "output.txt").read_text()
    mine = history(study, runs)
    if workers == 1:
        assert mine == history(study, whole)
        text = (runs / "chosen.yaml").read_text().replace(str(runs), "")
        assert text == (whole / "chosen.yaml").read_text().replace(str(whole), "")
    for trials in mine.values():
        assert [number for number, *_ in trials] == list(range(len(trials)))
        assert {end["state"] for *_, end in trials} <= {"finished", "pruned", "refused"}
        counted = [end for *_, end in trials if end["state"] != "refused"]
        assert len(counted) == TRIALS or sum(end["cost"] for end in counted) > TRIALS - 1, "the budget is used"
    runs_tracked, counts = tracked(runs)
    assert set(counts.values()) == {1}, "no trial is tracked twice"
    assert len(counts) == sum(map(len, mine.values())) + len(mine)
    if workers == 1:
        assert runs_tracked == tracked(whole)[0]
    assert not list(runs.glob("tuning/*/*/checkpoint.pt")), "checkpoints of ended trials are removed"


def journal_size(runs: Path) -> int:
    """Return the size of all journals, in bytes."""
    return sum(path.stat().st_size for path in runs.glob("tuning/*/journal.log"))
