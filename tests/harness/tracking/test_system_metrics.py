"""System metrics: their values, their file, their tracking, and that results do not depend on them."""

import json
import multiprocessing
import os
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest
import torch

from harness.planning.plan import Plan
from harness.running.execute import execute
from harness.running.settings import Settings
from harness.store.run_folder import RunFolder
from harness.studies.study import load
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.system_metrics import (
    MEGABYTE,
    cut_off_partial_line,
    gpu_reader,
    machine_reader,
    missing_packages,
    read_samples,
    sampling,
)

pytestmark = pytest.mark.alone

CPU = torch.device("cpu")
NAMES = {
    "cpu_utilization_percentage",
    "system_memory_usage_megabytes",
    "system_memory_usage_percentage",
    "disk_usage_percentage",
    "disk_available_megabytes",
    "process_cpu_percentage",
    "process_memory_megabytes",
}


def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def hold(megabytes, ready, done):
    held = bytearray(os.urandom(1)) * (megabytes * 10**6)
    ready.set()
    done.wait(30)
    assert held


def test_figures_are_those_of_the_process_and_the_machine(tmp_path):
    read = machine_reader(tmp_path)
    start = time.process_time(), time.monotonic()
    burn(0.3)
    used = time.process_time() - start[0]
    sample = read()
    share = 100 * used / (time.monotonic() - start[1])
    assert sample.keys() == NAMES
    assert sample["process_cpu_percentage"] == pytest.approx(share, abs=25)
    assert sample["process_memory_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / MEGABYTE, rel=0.05)
    total = psutil.virtual_memory().total / MEGABYTE
    expected = 100 * sample["system_memory_usage_megabytes"] / total
    assert sample["system_memory_usage_percentage"] == pytest.approx(expected)
    stat = os.statvfs(tmp_path)
    assert sample["disk_available_megabytes"] == pytest.approx(stat.f_bavail * stat.f_frsize / MEGABYTE, rel=0.01)


def test_child_processes_count_too(tmp_path):
    read = machine_reader(tmp_path)
    before = read()["process_memory_megabytes"]
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    child = context.Process(target=hold, args=(200, ready, done))
    child.start()
    assert ready.wait(30)
    during = read()["process_memory_megabytes"]
    done.set()
    child.join()
    assert during - before > 200
    assert read()["process_memory_megabytes"] < during - 200


def test_samples_are_taken_at_intervals_and_at_the_end(tmp_path):
    path = tmp_path / "system.jsonl"
    start = time.time()
    with sampling(path, 0.1, CPU):
        time.sleep(0.55)
    samples = read_samples(path)
    assert 3 <= len(samples) <= 6
    times = [sample["time"] for sample in samples]
    assert start < times[0] and times[-1] <= time.time()
    assert all(later - earlier >= 0.09 for earlier, later in pairwise(times[:-1]))
    with sampling(path, 1000.0, CPU):
        pass
    assert len(read_samples(path)) == len(samples) + 1, "appended, after a resume; and a short run has one, too"
    with sampling(tmp_path / "none", None, CPU):
        pass
    assert not (tmp_path / "none").exists()


def test_only_a_partial_line_is_lost_after_a_kill(tmp_path):
    path = tmp_path / "system.jsonl"
    path.write_text('{"time": 1.0}\n{"time": 2.')
    assert read_samples(path) == [{"time": 1.0}]
    cut_off_partial_line(path)
    assert path.read_text() == '{"time": 1.0}\n'
    with sampling(path, 1000.0, CPU):
        pass
    first, second = read_samples(path)
    assert first == {"time": 1.0} and second.keys() == NAMES | {"time"}
    path.write_bytes(b'{"time": 1.0}\n' + bytes(10) + b'\n{"time": 2.0}\n')
    assert [sample["time"] for sample in read_samples(path)] == [1.0, 2.0], "a power cut left a line of zeros"
    assert read_samples(tmp_path / "none") == []


def test_a_disk_that_takes_no_samples_does_not_stop_the_run(tmp_path, capsys):
    with sampling(tmp_path / "nowhere" / "system.jsonl", 0.05, CPU):
        time.sleep(0.2)
    err = capsys.readouterr().err
    assert err == f"no more system metrics of this run: {tmp_path}/nowhere/system.jsonl: No such file or directory\n"


def test_results_are_the_same_bits_with_and_without(make_run, tmp_path, read_result):
    run = make_run("swa(start=1)")
    for name, seconds in (("with", 0.01), ("without", None)):
        settings = Settings(tmp_path / name, system_metrics=seconds)
        assert execute(run, settings, []).state == "finished"
    assert read_result(tmp_path / "with", run.key) == read_result(tmp_path / "without", run.key)
    assert read_samples(RunFolder(tmp_path / "with", run.key).system)
    assert not RunFolder(tmp_path / "without", run.key).system.exists()


def test_samples_are_tracked_once_under_the_names_of_mlflow(tmp_path, write_study, run_study, empty_store):
    from mlflow import MlflowClient

    runs = tmp_path / "runs"
    study = write_study(tmp_path / "rows.yaml")
    (planned,) = Plan(load(str(study))).runs.values()
    folder = RunFolder(runs, planned.key)
    folder.path.mkdir(parents=True)
    lines = [{"time": 100.5 + i, **dict.fromkeys(NAMES, float(i))} for i in range(3)]
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    mirror = Mirror(store, "rows", runs)
    for count in (2, 3):
        folder.system.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
        mirror.send(planned)
    Mirror(store, "rows", runs).send(planned)  # as after a kill
    assert mirror.problem == ""
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("rows").experiment_id])
    assert {f"system/{name}" for name in NAMES} == set(run.data.metrics)
    for name in NAMES:
        points = client.get_metric_history(run.info.run_id, f"system/{name}")
        found = sorted((point.step, point.value, point.timestamp) for point in points)
        assert found == [(i, float(i), int(1000 * (100.5 + i))) for i in range(3)], "nothing twice"


def test_missing_packages_are_named(monkeypatch):
    assert missing_packages("cpu") == ""
    for module in ("psutil", "pynvml"):
        monkeypatch.setitem(sys.modules, module, None)
    assert missing_packages("cpu") == "psutil"
    assert missing_packages("cuda:1") == "psutil nvidia-ml-py"


class NVMLError(Exception):
    """Like NVML's own error for a metric that a GPU does not provide."""


def test_metrics_that_a_gpu_does_not_provide_are_left_out(monkeypatch, capsys):
    def refuse(device):
        raise NVMLError("Not Supported")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=8 * 10**9))
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 37)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "power_draw", refuse)
    read = gpu_reader(torch.device("cuda:1"))
    expected = {
        "gpu_1_utilization_percentage": 37.0,
        "gpu_1_memory_usage_megabytes": 2000.0,
        "gpu_1_memory_usage_percentage": 25.0,
    }
    assert [read(), read()] == [expected, expected]
    assert capsys.readouterr().err == "gpu_1_power_usage_watts is not measured: Not Supported\n", "said once"


@pytest.mark.gpu
def test_memory_of_a_real_gpu():
    held = torch.ones(10**8, device="cuda")
    sample = gpu_reader(torch.device("cuda"))()
    assert sample["gpu_0_memory_usage_megabytes"] > held.numel() * 4 / MEGABYTE
    assert 0 <= sample["gpu_0_utilization_percentage"] <= 100
