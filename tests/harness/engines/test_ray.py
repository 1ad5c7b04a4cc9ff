"""The engine for Ray clusters: the same results as in one process, if workers die and without shared storage."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster as Machines

from harness.engines import Cluster, EngineError, Inline, Ray, ray_driver
from harness.engines.ray_cluster import check_reachable, descendants
from harness.engines.retry_queue import MAX_ATTEMPTS
from harness.engines.run_archive import is_run_file
from harness.store.run_folder import RunFolder

pytestmark = pytest.mark.long

METHODS = ["sgd", "swa(late_phase_bn(K=2, start=1), start=2)", "mc_dropout(K=2)", "deep_ensemble(K=2)"]

KILLED = """
import os, signal, time
from pathlib import Path
from methods import Method

class Killed(Method):
    'Kills its worker at the start of epoch `at`, `times` times. Records every epoch that it starts.'
    def __init__(self, make_net, recipe, *, times: int = 1, at: int = 1, seconds: float = 0.0, mark: str = ""):
        super().__init__(make_net, recipe)
        self.times, self.at, self.seconds, self.mark = times, at, seconds, Path(mark)
    def begin_epoch(self, epoch):
        super().begin_epoch(epoch)
        with self.mark.open("a") as file:
            file.write(f"{epoch} ")
        time.sleep(self.seconds)
        if epoch == self.at and self.mark.read_text().split().count(str(epoch)) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)

METHODS = {"killed": Killed}
"""


@pytest.fixture(scope="module", autouse=True)
def machines():
    """Start a cluster of two machines with a CPU each. The engine uses the existing connection."""
    cluster = Machines()
    noticed = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster.add_node(num_cpus=1, include_dashboard=False, _system_config=noticed)
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_cluster_answers_as_other_programs_do_not(machines):
    check_reachable(machines.address)


def check_resumed(mark, epochs):
    """Check that a run that was interrupted once resumed from the checkpoint of its last epoch."""
    noted = [int(epoch) for epoch in mark.read_text().split()]
    assert noted == sorted(noted)
    assert set(noted) == set(range(epochs))
    assert len(noted) <= epochs + 1


def engine(**options):
    return Ray(None, 1, Cluster("auto"), **options)


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "killers.py"
    path.write_text(KILLED)
    return path


def check_same(study, done, tmp_path, run_study, read_result, **options):
    """Check that the runs of a study equal those of one process."""
    assert done.schedule.failed == {}
    assert done.schedule.finished == set(done.plan.runs)
    whole = run_study(study, tmp_path / "whole", Inline(1), **options)
    for key, planned in whole.plan.runs.items():
        assert read_result(done.settings.runs, key) == read_result(tmp_path / "whole", key), planned.run
        files = {path.name for path in RunFolder(done.settings.runs, key).path.iterdir() if is_run_file(path.name)}
        kept = {"source.zip"} if planned.run.method.name == "killed" else set()
        assert files == {"spec.json", "checkpoint.pt", "metrics.jsonl", "predictions.npz", "result.json"} | kept


def test_two_machines_give_the_same_bits_as_one_process_even_if_a_worker_is_killed(
    tmp_path, plugin, write_study, run_study, read_result
):
    mark = tmp_path / "mark"
    study = write_study(tmp_path / "s.yaml", methods=[*METHODS, f"killed(mark={str(mark)!r})"])
    done = run_study(study, tmp_path / "runs", engine(), plugins=[plugin])
    assert mark.read_text() == "0 1 1 2 ", "it resumed from its checkpoint"
    names = [str(planned.run.method) for planned in done.plan.runs.values()]
    assert sorted(done.log.ends) == sorted((name, "finished") for name in names)
    assert sum(name.startswith("killed") for name in done.log.starts) == 2
    mark.write_text("1 1")  # so that the reference run is not killed
    check_same(study, done, tmp_path, run_study, read_result, plugins=[plugin])


def test_without_shared_storage_results_and_checkpoints_are_fetched(
    tmp_path, plugin, write_study, run_study, read_result, monkeypatch
):
    monkeypatch.setattr(ray_driver, "PROGRESS_INTERVAL", 0.1)
    mark = tmp_path / "mark"
    killed = f"killed(mark={str(mark)!r}, at=9, seconds=0.3)"
    study = write_study(tmp_path / "s.yaml", methods=["deep_ensemble(K=2)", killed], recipe={"epochs": 10})
    seen = []

    class Observer:
        def started(self, planned):
            pass

        def ended(self, planned, outcome):
            pass

        def tick(self):
            for path in (tmp_path / "runs").glob("*/progress.json"):
                seen.append((path.parent.name, json.loads(path.read_text())["epoch"]))

    done = run_study(
        study, tmp_path / "runs", engine(share_storage=False, checkpoint_interval=0.0), Observer(), plugins=[plugin]
    )
    epochs = [int(epoch) for epoch in mark.read_text().split()]
    again = epochs.index(9) + 1
    assert epochs[:again] == list(range(10)), "killed at the start of its last epoch"
    assert epochs[again:] == list(range(epochs[again], 10))
    assert epochs[again] > 1, "it resumed from a fetched checkpoint"
    key = next(key for key, planned in done.plan.runs.items() if str(planned.run.method).startswith("killed"))
    assert len({epoch for name, epoch in seen if name == key}) > 2, "its progress was fetched while it trained"
    mark.write_text("9 9")
    check_same(study, done, tmp_path, run_study, read_result, plugins=[plugin])


def test_trunks_are_sent_to_the_runs_that_start_from_them(tmp_path, write_study, run_study, read_result):
    study = write_study(tmp_path / "s.yaml", methods=METHODS, recipe={"epochs": 4})
    shared = run_study(study, tmp_path / "runs", engine(share_storage=False), share=True)
    assert shared.schedule.failed == {}
    whole = run_study(study, tmp_path / "whole", Inline(1)).plan
    spent = set()
    for key in whole.runs:
        assert read_result(tmp_path / "runs", key) == read_result(tmp_path / "whole", key)
        result = json.loads(RunFolder(tmp_path / "runs", key).result.read_text())
        spent.add(result["spent"]["backward_examples"] / result["cost"]["backward_examples"])
    assert min(spent) < 1.0, "some of the training came from trunks"


def test_a_run_that_always_kills_its_worker_fails_and_others_do_not(tmp_path, plugin, write_study, run_study):
    mark = tmp_path / "mark"
    killer = f"killed(times=99, mark={str(mark)!r})"
    study = write_study(tmp_path / "s.yaml", methods=[killer, "sgd", f"deep_ensemble({killer}, K=1)"])
    done = run_study(study, tmp_path / "runs", engine(), plugins=[plugin])
    assert mark.read_text().split() == ["0", *["1"] * MAX_ATTEMPTS]
    reason = "its worker process died 3 times (killed, or out of memory)"
    found = {str(done.plan.runs[key].run.method): outcome for key, outcome in done.schedule.failed.items()}
    ensemble = next(name for name in found if name.startswith("deep_ensemble"))
    assert found.pop(ensemble)[1].endswith(f"which did not finish: {reason}")
    assert found == {killer: ("failed", reason)}
    assert sorted(state for _, state in done.log.ends) == ["failed", "failed", "finished"]
    key = next(key for key, planned in done.plan.runs.items() if str(planned.run.method) == killer)
    assert json.loads(RunFolder(tmp_path / "runs", key).failure.read_text())["reason"] == reason


def test_the_run_of_a_lost_machine_resumes_on_another(
    tmp_path, plugin, write_study, run_study, read_result, machines, log
):
    """Two more machines declare a GPU each, so the run must be on one of them first, and then on the other."""
    mark = tmp_path / "mark"
    slow = f"killed(times=0, seconds=0.3, mark={str(mark)!r})"
    study = write_study(tmp_path / "s.yaml", methods=[slow], recipe={"epochs": 12})
    with_gpus = [machines.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]

    class Observer(type(log)):
        def tick(self):
            if mark.exists() and "2" in mark.read_text().split() and set(with_gpus) <= machines.worker_nodes:
                (used,) = [machine for machine in with_gpus if workers_of(machine)]
                machines.remove_node(used, allow_graceful=False)

    observer = Observer()
    done = run_study(study, tmp_path / "runs", Ray(None, 1, Cluster("auto", gpus=1)), observer, plugins=[plugin])
    assert len(machines.worker_nodes & set(with_gpus)) == 1
    assert len(observer.starts) == 2
    check_resumed(mark, 12)
    check_same(study, done, tmp_path, run_study, read_result, plugins=[plugin])


def workers_of(machine):
    """Return the worker processes on a simulated machine."""
    (raylet,) = machine.all_processes["raylet"]
    names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(raylet.process.pid)}
    return [pid for pid, name in names.items() if name.startswith("ray::Worker")]


def test_a_machine_without_the_data_is_refused(tmp_path, write_study, run_study, npz, monkeypatch):
    study = write_study(tmp_path / "s.yaml")
    monkeypatch.setattr(
        "harness.engines.ray.datasets_by_path", lambda _: ((f"npz:{npz}", "0" * 64), ("npz:/no/x.npz", "1"))
    )
    with pytest.raises(EngineError) as refused:
        run_study(study, tmp_path / "runs", engine())
    first, second = str(refused.value).splitlines()
    assert first.endswith(f": {npz} differs from the driver's file; copy the driver's file there")
    assert "/no/x.npz cannot be read" in second


def test_a_run_that_needs_more_than_any_machine_has_is_refused(tmp_path, write_study, run_study):
    with pytest.raises(EngineError, match=r"no machine of the Ray cluster has the 2 CPUs and 0 GPUs that a run needs"):
        run_study(write_study(tmp_path / "s.yaml"), tmp_path / "runs", Ray(None, 1, Cluster("auto", cpus=2)))


def alive(pids):
    """Return which of the processes are still running."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.add(pid)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_process_outlives_a_killed_driver_and_the_same_command_resumes(
    tmp_path, econ, environment, plugin, write_study, run_study, read_result
):
    mark = tmp_path / "mark"
    slow = f"killed(times=0, seconds=0.2, mark={str(mark)!r})"
    study = write_study(tmp_path / "s.yaml", methods=[slow], recipe={"epochs": 15})
    runs = tmp_path / "runs"
    options = ["--plugin", plugin, "--runs", runs, "--engine", "ray", "--workers", "1", "--checkpoint-seconds", "0"]
    command = [*econ, "run", study, *options]
    driver = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while driver.poll() is None and not list(runs.glob("*/checkpoint.pt")):
        time.sleep(0.05)
    started = descendants(driver.pid)  # after the kill they have other parents
    assert len(started) > 5, driver.communicate()
    driver.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(started) == set()
    assert not list(runs.glob("*/result.json"))

    again = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (again.returncode, again.stderr) == (0, ""), again.stdout
    check_resumed(mark, 15)
    assert "all 1 runs are finished" in again.stdout
    assert [line for line in again.stdout.splitlines() if "ray" in line.lower()] == [], "no log of Ray's"
