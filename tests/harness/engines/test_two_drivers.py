"""Two `econ run` commands for one study at the same time: each run is trained once, and tracked once."""

import re
import shutil
import subprocess
import time
from collections import Counter
from io import StringIO
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from rich.console import Console

from harness.planning import schedule as scheduling
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.running.execute import record_failure
from harness.store.claim import read_claim, write_claim
from harness.store.outcome import ALREADY_FINISHED, Outcome
from harness.store.run_folder import RunFolder, write_json
from harness.studies.study import load
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.progress_display import ProgressDisplay
from tests.harness.made_up import made_up_progress, made_up_result

COUNTED = """
import time
from pathlib import Path
from methods import Method
from methods.core.declarations import Sharing

class Counted(Method):
    'Records each training from the start, and takes its time.'
    sharing = Sharing()
    def __init__(self, make_net, recipe, *, mark: str = "", number: int = 0):
        super().__init__(make_net, recipe)
        self.mark, self.number = Path(mark), number
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        if epoch == 0:
            with self.mark.open("a") as file:
                file.write(f"{self.number} {self.seed}\\n")
        time.sleep(0.15)
"""
ENGINES = {"inline": ["--engine", "inline"], "processes": ["--engine", "processes", "--workers", "2"]}
SEEDS, NUMBERS = (0, 1), (0, 1, 2)


@pytest.fixture
def study(tmp_path, write_study):
    """Write a study of six runs that record themselves, two that share epochs with two of them, and two ensembles."""
    (tmp_path / "counted.py").write_text(COUNTED)
    mark = str(tmp_path / "mark")
    methods = [f"counted(mark={mark!r}, number={i})" for i in NUMBERS]
    others = [f"swa({methods[0]}, start=2)", f"deep_ensemble({methods[0]}, K=2)"]
    return write_study(tmp_path / "two.yaml", methods=[*methods, *others], seeds=list(SEEDS))


@pytest.fixture
def launch(tmp_path, study, econ, environment, empty_store):
    """Return a function that starts a driver."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    drivers = []

    def start(engine):
        options = ["--runs", "runs", "--plugin", "counted.py", "--threads", "1", "--checkpoint-seconds", "0"]
        driver = subprocess.Popen(
            [*econ, "run", str(study), *options, *ENGINES[engine]],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


@pytest.fixture
def plan(tmp_path, study):
    plan = Plan(load(str(study), [tmp_path / "counted.py"]), share=True)
    assert (len(plan.without_trunks), len(plan.runs)) == (12, 14), "two trunks"
    return plan


def check_store(tmp_path, plan):
    """Check that the store has every run completely and once, and each of its points once."""
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    tracked = client.search_runs([client.get_experiment_by_name("two").experiment_id])
    assert Counter(run.data.tags["key"] for run in tracked) == Counter(plan.runs.keys())
    for run in tracked:
        folder = RunFolder(tmp_path / "runs", run.data.tags["key"])
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "finished")
        points = [(line["epoch"], line["train/loss"]) for line in folder.read_epochs()]
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == points
        files = {"result.json", "source.zip"} | (set() if run.data.tags["role"] == "trunk" else {"predictions.npz"})
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == files


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
def test_two_drivers_train_each_run_once(tmp_path, launch, plan, engine):
    drivers = [launch(engine) for _ in range(2)]
    outputs = [driver.communicate(timeout=240)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    assert plan.finished(tmp_path / "runs") == set(plan.runs)
    trained = Counter((tmp_path / "mark").read_text().splitlines())
    members = {f"0 {seed}" for seed in (2, 3)}  # of the second ensemble, besides the cells
    assert trained == dict.fromkeys({f"{number} {seed}" for number in NUMBERS for seed in SEEDS} | members, 1)
    check_store(tmp_path, plan)
    count = len(plan.without_trunks)
    others = [re.search(rf"all {count} runs are finished(?:, (\d+) of them by another driver)?", o) for o in outputs]
    assert all(others), outputs
    assert sum(int(match[1] or 0) for match in others) == count, "each run was trained by one of the two"
    assert "warning" not in "".join(outputs)


@pytest.mark.long
def test_one_driver_finishes_the_study_when_the_other_is_killed(tmp_path, launch, plan):
    victim, survivor = launch("processes"), launch("processes")

    def of_victim():
        owners = {
            folder: RunFolder(folder.parent, folder.name).owner() for folder in (tmp_path / "runs").glob("?" * 64)
        }
        return [folder for folder, owner in owners.items() if owner and f"process {victim.pid} " in owner.driver]

    deadline = time.monotonic() + 120
    while not (taken := of_victim()) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.kill()
    assert taken and not any((folder / "result.json").exists() for folder in taken), "it was killed in a run"
    output = survivor.communicate(timeout=240)[0]
    assert survivor.returncode == 0, output
    assert plan.finished(tmp_path / "runs") == set(plan.runs)
    assert f"all {len(plan.without_trunks)} runs are finished" in output
    check_store(tmp_path, plan)


# How a driver handles the runs of another one, step by step.


@pytest.fixture
def schedule(tmp_path, plan, monkeypatch):
    monkeypatch.setattr(scheduling, "CHECK_SECONDS", 0.0)
    return Schedule(plan.runs, set(), "this driver")


def take_elsewhere(schedule, root):
    """Take a run, and let a process of another machine claim it."""
    key = schedule.take()
    folder = RunFolder(root, key)
    assert write_claim(folder.path, 1, '{"machine": "another machine", "driver": "another"}')
    schedule.end(key, Outcome("elsewhere"))
    assert schedule.elsewhere == {key}
    assert schedule.left
    assert list(schedule.check_elsewhere(root)) == []
    assert schedule.elsewhere == {key}
    return key, folder


def test_a_result_of_another_driver_counts_as_finished(tmp_path, schedule):
    key, folder = take_elsewhere(schedule, tmp_path)
    write_json(folder.result, made_up_result(key))
    assert list(schedule.check_elsewhere(tmp_path)) == [(key, Outcome("finished", "by another driver"))]
    assert (schedule.elsewhere, schedule.finished, schedule.by_others) == (set(), {key}, {key})


def test_a_failure_of_another_driver_counts_when_its_claim_is_released(tmp_path, schedule):
    key, folder = take_elsewhere(schedule, tmp_path)
    record_failure(folder, Outcome("diverged", "boo"))
    assert list(schedule.check_elsewhere(tmp_path)) == [], "it may be an old failure"
    write_claim(folder.path, 2, "")
    outcome = Outcome("diverged", "boo (another driver tried it)")
    assert list(schedule.check_elsewhere(tmp_path)) == [(key, outcome)]
    assert (schedule.failed, schedule.by_others) == ({key: outcome}, {key})


@pytest.mark.parametrize("why", ["released", "silent", "out of memory"])
def test_a_run_that_another_driver_abandoned_is_taken_again(tmp_path, schedule, why):
    key, folder = take_elsewhere(schedule, tmp_path)
    if why == "silent":
        schedule.claim_observer.timeout = 0.0
    else:
        write_claim(folder.path, 2, "")
    if why == "out of memory":
        record_failure(folder, Outcome("out of memory", "boo"))
    assert list(schedule.check_elsewhere(tmp_path)) == []
    assert (schedule.elsewhere, schedule.waiting[0], schedule.by_others) == (set(), key, set())
    assert read_claim(folder.path).owner is None
    assert schedule.take() == key


def test_a_run_found_finished_counts_as_one_of_another_driver(schedule):
    first, second = schedule.take(), schedule.take()
    schedule.end(first, Outcome("finished", ALREADY_FINISHED))
    schedule.end(second, Outcome("finished"))
    assert schedule.finished == {first, second}
    assert schedule.by_others == {first}


def test_runs_of_another_driver_are_not_sent(tmp_path, plan, schedule):
    """While such a run is running, its progress is displayed but not sent either."""
    sent, left, text = [], [], StringIO()
    mirror = SimpleNamespace(
        runs=tmp_path,
        problem="",
        send=lambda planned, live=False: sent.append((planned.key, live)),
        leave_to_other_driver=left.append,
    )
    show = ProgressDisplay(plan, schedule, mirror, Console(file=text, width=200))
    show.total = show.bars.add_task("runs")
    mine, busy = schedule.take(), schedule.take()
    for key in (mine, busy, schedule.waiting[0]):
        show.started(plan.runs[key])
    other, folder = take_elsewhere(schedule, tmp_path)
    theirs = '{"machine": "another machine", "driver": "another"}'
    write_claim(RunFolder(tmp_path, busy).path, 1, theirs)  # and no worker of this driver has started it yet
    for key in (mine, busy, other):
        write_json(RunFolder(tmp_path, key).progress, made_up_progress(epoch=2))
    show.refreshed = show.searched_elsewhere = 0.0
    with RunFolder(tmp_path, mine).claim(schedule.driver):
        show.tick()
    assert sent == [(mine, True)]
    assert show.elsewhere[other].epoch == 2
    schedule.end(mine, Outcome("finished"))
    show.ended(plan.runs[mine], Outcome("finished"))
    schedule.end(busy, Outcome("elsewhere"))
    show.refreshed = 0.0
    show.tick()
    write_json(folder.result, made_up_result(other))
    for key, outcome in schedule.check_elsewhere(tmp_path):
        show.ended(plan.runs[key], outcome)
    assert sent == [(mine, True), (mine, False)]
    assert left == [plan.runs[other]]
    lines = text.getvalue().splitlines()
    assert lines[1] == "waiting for 2 of the runs, on which another driver works"
    assert lines[2].startswith(f"[2/{len(plan.runs)}] {plan.runs[other].run}: finished in ")
    assert lines[2].endswith(": by another driver")


def test_runs_of_other_drivers_are_checked_at_intervals(tmp_path, schedule, monkeypatch):
    key, folder = take_elsewhere(schedule, tmp_path)
    write_json(folder.result, made_up_result(key))
    monkeypatch.setattr(scheduling, "CHECK_SECONDS", 60.0)
    assert list(schedule.check_elsewhere(tmp_path)) == []


def test_two_drivers_that_create_the_experiment_at_once_share_it(tmp_path, empty_store, monkeypatch):
    """Both see that there is none. The second to create it finds that of the first."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    first, second = (Mirror(f"sqlite:///{tmp_path / 'mlflow.db'}", "s", tmp_path) for _ in range(2))
    find = MlflowClient.get_experiment_by_name

    def overtaken(client, name):
        found = find(client, name)
        if second.client is None and not found:
            monkeypatch.undo()
            first.open()
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", overtaken)
    second.open()
    assert (first.problem, second.problem) == ("", "")
    assert first.experiment_id == second.experiment_id


def test_runs_of_another_driver_are_sent_only_if_it_did_not(tmp_path, write_study, run_study, monkeypatch, empty_store):
    monkeypatch.setattr("harness.tracking.mlflow_mirror.OTHER_DRIVERS_SECONDS", 0.0)
    done = run_study(write_study(tmp_path / "s.yaml", methods=["sgd", "swa(start=1)"]), tmp_path / "runs")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mine, other = Mirror(store, "s", tmp_path / "runs"), Mirror(store, "s", tmp_path / "runs")
    mine.open()
    sent, forgotten = done.plan.runs.values()
    for planned in (sent, forgotten):
        mine.leave_to_other_driver(planned)
    other.send(sent)
    sendings = []
    update = mine.update
    monkeypatch.setattr(mine, "update", lambda planned: (sendings.append(planned), update(planned)))
    mine.close()
    assert sendings == [forgotten]
    assert (mine.problem, mine.unsent) == ("", set())
    tracked = MlflowClient(store).search_runs([mine.experiment_id])
    assert Counter(run.data.tags["key"] for run in tracked) == Counter(done.plan.runs.keys())
    assert {run.data.tags["state"] for run in tracked} == {"finished"}
