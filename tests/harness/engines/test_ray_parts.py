"""The parts of the Ray engine that need no cluster: archives, the retry queue, options, a worker, and the driver."""

import errno
import shutil
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import ray
import torch

from harness.cli.options import Refusal
from harness.cli.options.engine import share_cluster
from harness.engines import Cluster, EngineError, Ray, ray_driver
from harness.engines.ray import datasets_by_path, read_folder_id
from harness.engines.ray_cluster import connected
from harness.engines.ray_driver import Driver
from harness.engines.ray_worker import Worker, WorkerDescription, WorkerSetup, make_private_folder
from harness.engines.retry_queue import RetryQueue
from harness.engines.run_archive import ArchiveError, pack, unpack
from harness.parsing.plugins import available_methods
from harness.planning.plan import Plan
from harness.planning.schedule import Schedule
from harness.running.settings import Settings
from harness.store.environment import COMMIT_VARIABLE, git_commit
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, describe_disk_error
from harness.studies.study import load
from tests.harness.conftest import EventLog


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs", "key")
    folder.path.mkdir(parents=True)
    return folder


def names(folder):
    return {path.name for path in folder.path.iterdir()}


def test_an_archive_has_the_files_of_the_run_and_no_others(folder, tmp_path):
    contents = {"spec.json": b"{}", "checkpoint.pt": b"\0\1", "result.json": b'{"a": 1}'}
    for name, content in {**contents, "claim.1": b"", ".spec.json.7.tmp": b"half"}.items():
        (folder.path / name).write_bytes(content)
    assert pack(folder) == contents
    assert pack(folder, without=frozenset({"checkpoint.pt"})).keys() == {"spec.json", "result.json"}
    assert pack(RunFolder(tmp_path, "none")) == {}
    other = RunFolder(tmp_path / "others", "key")
    unpack(pack(folder), other, whole=True)
    assert {path.name: path.read_bytes() for path in other.path.iterdir()} == contents


def test_only_a_whole_archive_removes_progress_and_failure_files(folder):
    folder.progress.write_text("{}")
    folder.failure.write_text("{}")
    unpack({"metrics.jsonl": b""}, folder, whole=False)
    assert names(folder) == {"metrics.jsonl", "progress.json", "failure.json"}
    unpack({"failure.json": b"new"}, folder, whole=True)
    assert names(folder) == {"metrics.jsonl", "failure.json"}
    assert folder.failure.read_bytes() == b"new"


def test_the_result_is_written_last(folder, monkeypatch):
    order = []
    monkeypatch.setattr(
        "harness.engines.run_archive.write_atomically", lambda path, save, durable: order.append(path.name)
    )
    unpack({"result.json": b"", "spec.json": b"", "checkpoint.pt": b""}, folder, whole=True)
    assert order == ["spec.json", "checkpoint.pt", "result.json"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "", ".hidden", "claim.3", "a\n"])
def test_an_archive_cannot_write_outside_its_folder(folder, name):
    with pytest.raises(ArchiveError, match="which is not a file of a run folder"):
        unpack({"spec.json": b"{}", name: b""}, folder, whole=True)
    assert names(folder) == set()


def test_losses_are_counted_until_the_run_makes_progress(tmp_path):
    retries = RetryQueue(tmp_path)
    assert [retries.count_loss("a") for _ in range(2)] == [1, 2]
    folder = RunFolder(tmp_path, "a")
    folder.path.mkdir()
    folder.checkpoint.write_text("further")
    assert retries.count_loss("a") == 1
    assert retries.count_loss("a") == 2
    retries.forget("a")
    assert retries.count_loss("a") == 1


def test_suspects_are_retried_one_at_a_time_until_they_make_progress(tmp_path):
    retries = RetryQueue(tmp_path)
    for key in "abc":
        retries.count_loss(key)
        retries.add(key)
    assert retries.take({"x"}) == "a"
    assert retries.take({"x", "a"}) is None
    folder = RunFolder(tmp_path, "a")
    folder.path.mkdir()
    folder.checkpoint.write_text("further")
    assert retries.take({"x", "a"}) == "b", "a is not a suspect any more"
    assert retries.take({"a", "b"}) is None
    retries.forget("b")
    assert retries.take({"a"}) == "c"
    assert retries.take({"a"}) is None, "the queue is empty"


@pytest.mark.parametrize(
    ("cpus", "gpus", "machine", "runs"),
    [
        (1, 0, {"CPU": 8.0, "GPU": 2.0}, 8),
        (3, 0, {"CPU": 8.0}, 2),
        (1, 0.25, {"CPU": 64.0, "GPU": 8.0}, 32),
        (1, 0.3, {"CPU": 64.0, "GPU": 2.0}, 6),
        (4, 0.25, {"CPU": 8.0, "GPU": 8.0}, 2),
        (1, 2, {"CPU": 8.0, "GPU": 5.0}, 2),
        (1, 1, {"CPU": 8.0}, 0),
        (0.1, 0, {"CPU": 1.0}, 10),
    ],
)
def test_how_many_runs_fit_on_a_machine(cpus, gpus, machine, runs):
    assert Cluster(None, cpus, gpus).fits(machine) == runs


def resolve(*arguments, gpus=0):
    """Return the meaning of options on a machine with 8 cores."""
    share = share_cluster(*arguments, cores=8)
    return share.workers, share.threads, share.cluster.cpus, share.cluster.gpus, share.device


@pytest.mark.parametrize(
    ("here", "arguments", "meant"),
    [  # address, CPUs, GPUs, workers, threads, device -> workers, threads, CPUs, GPUs, device
        (0, (None, None, None, None, None, None), (8, 1, 1, 0, "cpu")),
        (0, (None, None, None, 2, None, None), (2, 4, 4, 0, "cpu")),
        (0, (None, None, None, None, 2, None), (8, 2, 2, 0, "cpu")),
        (0, (None, 2.0, None, None, 1, None), (8, 1, 2, 0, "cpu")),
        (8, (None, None, 0.25, None, None, None), (32, 1, 1, 0.25, "cuda")),
        (8, (None, None, None, None, None, None), (8, 1, 1, 1, "cuda")),
        (8, (None, None, None, None, None, "cpu"), (8, 1, 1, 0, "cpu")),
        (0, ("auto", None, 1.0, None, None, None), (None, 1, 1, 1, "cuda")),
        (0, ("auto", 4.0, None, 9, None, "cpu"), (9, 4, 4, 0, "cpu")),
    ],
)
def test_the_meaning_of_options(monkeypatch, here, arguments, meant):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here > 0)
    assert resolve(*arguments) == meant


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((None, None, None, None, None, "cuda:1"), "Ray chooses the GPU of each run; write --device cuda"),
        (("auto", None, 0.5, None, None, "cpu"), "cuda takes GPUs, nothing else does"),
        (("auto", None, 0.0, None, None, "cuda"), "cuda takes GPUs, nothing else does"),
        (("auto", None, 2.0, None, None, None), "a run computes on one GPU, or shares one"),
        (("auto", None, None, None, None, None), "the cluster's GPUs are not seen from here: add --gpus-per-run 1"),
        ((None, None, 1.0, None, None, None), "this machine has 0; --ray-address names another cluster"),
    ],
)
def test_contradictory_options_are_refused(monkeypatch, arguments, reason):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(Refusal, match=reason):
        resolve(*arguments)


@pytest.mark.parametrize(("address", "reason"), [("127.0.0.1:1", "refused"), ("here", "expected HOST:PORT, ")])
def test_an_unreachable_cluster_is_refused(address, reason):
    refused = pytest.raises(EngineError, match=rf"no connection to the Ray cluster {address}: .*{reason}")
    with refused, connected(Cluster(address), None):
        pass


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = pytest.raises(EngineError, match=r"needs Ray .* pip install -c constraints.txt '\.\[ray\]'")
    with refused, connected(Cluster(), 1):
        pass


@pytest.fixture
def setup(tmp_path, write_study, monkeypatch):
    """Return a function that makes the setup of a worker for a study, and the plan of the study."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    plan = Plan(load(str(write_study(tmp_path / "s.yaml", methods=["sgd", "deep_ensemble(K=1)"]))))
    settings = Settings(tmp_path / "runs", tmp_path / "downloads", checkpoint_seconds=0.0)
    datasets = datasets_by_path(Schedule(plan.runs, set()))

    def make(**changes):
        values = {"settings": settings, "threads": 1, "cwd": tmp_path, "folder_id": read_folder_id(settings.runs)}
        return WorkerSetup(**{**values, "plugins": (), "datasets": datasets, **changes})

    return make, plan


def test_a_worker_that_shares_storage_works_in_the_drivers_folder(setup, tmp_path):
    make, plan = setup
    worker = Worker(make())
    assert (worker.shares_storage, worker.describe().problems) == (True, [])
    for key, planned in plan.runs.items():
        outcome, archive = worker.execute(planned, {})
        assert (outcome.state, archive) == ("finished", {})
        assert RunFolder(tmp_path / "runs", key).finished


def test_a_worker_without_shared_storage_is_sent_what_it_needs_and_leaves_no_files(setup, tmp_path):
    make, plan = setup
    worker = Worker(make(folder_id="another folder with the same path"))
    assert not worker.describe().shares_storage
    driver_runs = tmp_path / "of the driver"
    for key, planned in plan.runs.items():
        needed = {other: pack(RunFolder(driver_runs, other)) for other in planned.after}
        outcome, archive = worker.execute(planned, needed)
        assert outcome.state == "finished"
        unpack(archive, RunFolder(driver_runs, key), whole=True)
        assert RunFolder(driver_runs, key).finished
    assert not list((tmp_path / "runs").glob("*/*"))
    assert worker.read_progress("none", checkpoint=True) == {}
    worker.clean_up()
    assert not list((tmp_path / "tmp").glob("*/worker-*"))


def test_a_checkpoint_is_fetched_once(setup):
    make, _ = setup
    worker = Worker(make(share_storage=False))
    folder = RunFolder(worker.settings.runs, "key")
    folder.path.mkdir(parents=True)
    for name in ("spec.json", "source.zip", "checkpoint.pt", "progress.json", "predictions.npz", "result.json"):
        (folder.path / name).write_text(name)
    small = {"progress.json": b"progress.json"}
    assert worker.read_progress("key", checkpoint=False) == small
    assert worker.read_progress("key", checkpoint=True) == {
        **small,
        "spec.json": b"spec.json",
        "source.zip": b"source.zip",
        "checkpoint.pt": b"checkpoint.pt",
    }
    assert worker.read_progress("key", checkpoint=True) == small
    worker.clean_up()


PLUGIN = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]))
from beside.layers import X
from above import Above
METHODS = {"NAME": Above}
"""
ABOVE = "from methods import Method\nclass Above(Method):\n    'Above.'\n"


def test_plugins_are_sent_with_the_modules_they_use(setup, tmp_path, monkeypatch):
    make, plan = setup
    monkeypatch.setattr(sys, "path", list(sys.path))
    there = tmp_path / "there"
    plugins = [there / folder / "mine.py" for folder in ("one", "two")]
    for plugin in plugins:
        (plugin.parent / "beside").mkdir(parents=True)
        plugin.write_text(PLUGIN.replace("NAME", plugin.parent.name))
        (plugin.parent / "beside" / "layers.py").write_text("X = 1\n")
    (there / "above.py").write_text(ABOVE)
    sources = available_methods(plugins).sources
    settings = Settings(tmp_path / "runs", plugins=tuple(plugins))
    sent = Ray(None, 1).worker_setup(Schedule(plan.runs, set()), settings).plugins
    shutil.rmtree(there)
    worker = Worker(make(plugins=sent))
    assert [path.name for path in worker.settings.plugins] == ["mine.py", "mine.py"]
    methods = available_methods(worker.settings.plugins)
    assert {name: source.digest for name, source in methods.sources.items()} == {
        name: source.digest for name, source in sources.items()
    }
    assert sources.keys() == {"one", "two"}
    assert all(path.is_relative_to(worker.folder) for source in methods.sources.values() for path in source.paths)
    worker.clean_up()


def test_missing_or_different_data_is_named(setup, tmp_path, npz):
    make, _ = setup
    found = datasets_by_path(Schedule(setup[1].runs, set()))
    assert [name for name, _ in found] == [f"npz:{npz}"]
    missing = tmp_path / "there" / "x.npz"
    worker = Worker(make(datasets=((f"npz:{npz}", "0" * 64), ("npz:there/x.npz", "1" * 64), *found)))
    first, second = worker.describe().problems
    assert first.endswith(f": {npz} differs from the driver's file; copy the driver's file there")
    assert f": {missing} cannot be read (" in second


def test_a_folder_of_runs_has_one_identifier(tmp_path):
    first = read_folder_id(tmp_path / "runs")
    assert len(first) == 32
    assert read_folder_id(tmp_path / "runs") == first
    assert read_folder_id(tmp_path / "others") != first
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="the folder of runs cannot be used: .*file"):
        read_folder_id(tmp_path / "file" / "runs")


def test_a_finished_study_needs_no_cluster(tmp_path, monkeypatch, setup):
    _, plan = setup
    monkeypatch.setitem(sys.modules, "ray", None)
    Ray(None, 1).run(Schedule(plan.runs, set(plan.runs)), Settings(tmp_path / "runs"), None)
    assert not (tmp_path / "runs").exists()


def test_folders_of_killed_workers_are_removed(tmp_path):
    left = tmp_path / "base" / "worker-left"
    left.mkdir(parents=True)
    (left / "lock").write_text("")
    mine, held = make_private_folder(tmp_path / "base")
    other, _ = make_private_folder(tmp_path / "base")
    assert {path.name for path in (tmp_path / "base").glob("worker-*")} == {mine.name, other.name}
    held.release()
    make_private_folder(tmp_path / "base")
    assert not mine.exists()
    assert other.exists()


def test_shipped_code_reports_the_commit_of_the_driver(monkeypatch, tmp_path):
    monkeypatch.setattr("harness.store.environment.ROOT", tmp_path)
    git_commit.cache_clear()
    monkeypatch.setenv(COMMIT_VARIABLE, "abc")
    assert git_commit() == "abc"
    git_commit.cache_clear()
    monkeypatch.delenv(COMMIT_VARIABLE)
    assert git_commit() == "unknown"
    git_commit.cache_clear()


class Answer:
    """The future result of a call to a worker."""

    def __init__(self, value=None, ready=True, label=""):
        self.value, self.ready, self.label = value, ready, label


class FakeRay:
    """Replaces Ray: a cluster whose workers answer as `behave` and `progress` say."""

    exceptions = ray.exceptions

    def __init__(self, behave, shares_storage, progress=None):
        self.behave, self.shares_storage = behave, shares_storage
        self.progress = progress or (lambda: Answer({}))
        self.given, self.busy, self.time = [], set(), 0

    def remote(self, _):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _: self.worker()))

    def worker(self):
        def execute(planned, archives, alone=False):
            self.given.append((planned.label, alone, sorted(self.busy)))
            answer = self.behave(planned, alone)
            answer.label = planned.label
            self.busy.add(planned.label)
            return answer

        calls = {
            "describe": lambda: Answer(WorkerDescription("far", self.shares_storage, [])),
            "clean_up": Answer,
            "execute": execute,
            "read_progress": lambda key, checkpoint: self.progress(),
        }
        return SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in calls.items()})

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}]

    def wait(self, refs, num_returns=1, timeout=None):
        self.time += 1
        found = [ref for ref in refs if ref.ready or self.time % 10 == 0]
        return found[:num_returns], []

    def get(self, ref):
        self.busy.discard(ref.label)
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value

    def kill(self, worker):
        pass


@pytest.fixture
def drive(tmp_path, write_study, monkeypatch):
    """Return a function that executes plain training and dropout on a fake cluster.

    It returns the fake cluster, and how the failed runs ended.
    """
    monkeypatch.setattr(ray_driver, "PROGRESS_INTERVAL", 0.0)

    def drive(behave, *, shares_storage=True, progress=None, observer=None):
        plan = Plan(load(str(write_study(tmp_path / "s.yaml", methods=["sgd", "dropout"]))))
        schedule, fake = Schedule(plan.runs, set()), FakeRay(behave, shares_storage, progress)
        settings = Settings(tmp_path / "runs", device="cuda")
        cluster = Cluster("auto", 1, 0.5)
        Driver(fake, cluster, None, None, schedule, settings, observer or EventLog(), 30.0).execute_all()
        return fake, {plan.runs[key].label: outcome for key, outcome in schedule.failed.items()}

    return drive


def test_a_run_that_is_out_of_memory_is_retried_when_no_other_runs(drive):
    def behave(planned, alone):
        if planned.label == "dropout":
            return Answer((Outcome("finished" if alone else "out of memory"), {}))
        return Answer((Outcome("finished"), {}), ready=False)

    fake, failed = drive(behave)
    assert failed == {}
    assert fake.given == [("sgd", False, []), ("dropout", False, ["sgd"]), ("dropout", True, [])]


def test_progress_that_is_lost_with_its_machine_ends_no_run(drive):
    lost = ray.exceptions.ObjectLostError("00" * 14, None, "")
    _, failed = drive(
        lambda planned, alone: Answer((Outcome("finished"), {}), ready=False),
        shares_storage=False,
        progress=lambda: Answer(lost),
    )
    assert failed == {}


@pytest.mark.parametrize("where", ["outside the run", "in the run"])
def test_a_full_disk_of_a_machine_without_shared_storage_is_named(drive, where):
    """The outcome is "blocked": it stops the study, and no run fails."""
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/spec.json")

    def behave(planned, alone):
        if where == "in the run":
            return Answer((Outcome("blocked", describe_disk_error(full)), {}))
        return Answer(ray.exceptions.RayTaskError("Worker.execute", "trace", full).as_instanceof_cause())

    _, outcomes = drive(behave, shares_storage=False)
    assert set(outcomes.values()) == {Outcome("blocked", "on far, no space is left for /tmp/spec.json: free some")}


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_another_program_at_the_port_is_no_cluster(answer, monkeypatch):
    monkeypatch.setattr("harness.engines.ray_cluster.ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            connection, _ = server.accept()
            if answer is None:
                time.sleep(2.0)  # it waits for the client to go on
            else:
                connection.sendall(answer)
            connection.close()

        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with (
            pytest.raises(EngineError, match=f"no connection to the Ray cluster 127.0.0.1:{port}: another program"),
            connected(Cluster(f"127.0.0.1:{port}"), 1),
        ):
            pass
        assert time.monotonic() - began < 10.0
