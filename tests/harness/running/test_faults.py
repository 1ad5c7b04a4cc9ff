"""Full or read-only disks and unavailable tracking servers: one message, nothing lost, and runs continue later."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from harness.planning.plan import Plan
from harness.running.execute import execute, record_failure
from harness.running.settings import Settings
from harness.store import checkpoint
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, describe_disk_error, write_atomically
from harness.tracking import background_mirror
from harness.tracking.background_mirror import BackgroundMirror
from harness.tracking.progress_display import ProgressDisplay

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs"),
]


class Disk:
    """A small disk in memory."""

    def __init__(self, path, size):
        self.path, self.ballast, self.bound = path, path / "ballast", []
        path.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")

    def fill(self, leave=0):
        """Leave so many bytes free."""
        stat = os.statvfs(self.path)
        with self.ballast.open("ab") as file:
            file.write(bytes(max(0, stat.f_bavail * stat.f_frsize - leave)))

    def free(self):
        """Make room again."""
        self.ballast.unlink(missing_ok=True)

    def lock(self, folder):
        """Make a folder read-only, for root too and though files in it are open."""
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        self.bound.append(folder)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)

    def unlock(self):
        """Make all folders writable again."""
        while self.bound:
            subprocess.run(["umount", self.bound.pop()], check=True)

    def end(self):
        """Unmount everything."""
        self.unlock()
        subprocess.run(["umount", "--lazy", self.path], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk", "4m")
    yield made
    made.end()


@pytest.fixture
def before_writing(monkeypatch):
    """Give a function that has something happen right before a file of this name is written for the n-th time."""
    opened, planned, whole = Counter(), {}, Path.open

    def opening(self, *arguments, **options):
        name = re.sub(r"^\.(.*)\.\d+\.tmp$", r"\1", self.name)
        opened[name] += name != self.name
        if name != self.name and (name, opened[name]) in planned:
            planned.pop((name, opened[name]))()
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", opening)
    return lambda name, n, action: planned.update({(name, n): action})


@pytest.fixture
def econ(run_here, monkeypatch, tmp_path):
    """Run the command line in this process, with one thread: exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments):
        threads = ["--threads", "1"] if arguments[0] == "run" else []  # other bits come of other numbers of them
        return run_here(*arguments, *threads)

    return run


@pytest.fixture
def check(tmp_path, run_study, read_result):
    """Give a function that compares a study with one that met no fault: same bits, and each run tracked once."""

    def check(study, runs, store):
        from mlflow import MlflowClient

        done = run_study(study, tmp_path / "undisturbed")
        trained = Plan(done.study, share=True).runs
        assert len(trained) == 6, "four runs and two trunks"
        for key in done.plan.runs:
            assert read_result(runs, key) == read_result(tmp_path / "undisturbed", key)
            assert not list(RunFolder(runs, key).path.glob(".*.tmp"))
            assert not RunFolder(runs, key).failure.exists()
        client = MlflowClient(store)
        tracked = client.search_runs([client.get_experiment_by_name(done.plan.study.name).experiment_id])
        assert Counter(run.data.tags["key"] for run in tracked) == Counter(trained.keys())
        for run in tracked:
            assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "finished")
            epochs = RunFolder(runs, run.data.tags["key"]).read_epochs()
            points = client.get_metric_history(run.info.run_id, "train/loss")
            assert sorted((p.step, p.value) for p in points) == [(line["epoch"], line["train/loss"]) for line in epochs]
            if trained[run.data.tags["key"]].role == "trunk":
                continue
            path = client.download_artifacts(run.info.run_id, "predictions.npz")
            assert Path(path).read_bytes() == RunFolder(runs, run.data.tags["key"]).predictions.read_bytes()

    return check


@pytest.fixture
def study(tmp_path, write_study):
    return write_study(
        tmp_path / "rows.yaml", methods=["sgd", "swa(late_phase_bn(K=2, start=1), start=2)"], seeds=[0, 1]
    )


FILES = [
    ("spec.json", 1),
    ("progress.json", 1),
    ("progress.json", 4),
    ("checkpoint.pt", 1),
    ("checkpoint.pt", 3),
    ("checkpoint.pt", 4),
    ("metrics.jsonl", 2),
    ("predictions.npz", 1),
    ("result.json", 1),
]


@pytest.mark.parametrize(("name", "n"), FILES)
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_run_that_cannot_write_resumes_later(disk, before_writing, make_run, tmp_path, read_result, name, n, fault):
    run, runs = make_run("swa(late_phase_bn(K=2, start=1), start=2)"), disk.path / "runs"
    folder, settings = RunFolder(runs, run.key), Settings(runs, checkpoint_seconds=0.0)
    before_writing(name, n, disk.fill if fault == "full" else lambda: disk.lock(folder.path))
    outcome = execute(run, settings, [])
    path = folder.path / name
    reason = {
        "full": f"no space is left for {path}: free some",
        "read-only": f"{path} is on a file system that can only be read: make it writable",
    }
    assert outcome == ("blocked", reason[fault]), "no failure of the run's"
    assert not folder.failure.exists()
    if name == "checkpoint.pt" and n > 1:
        kept = checkpoint.load(folder.checkpoint, run.key)
        assert (kept.epoch, kept.prepared) == (n - 1, False), "the checkpoint before is whole"
    disk.free()
    disk.unlock()
    assert execute(run, settings, []) == ("finished", "")
    assert execute(run, Settings(tmp_path / "undisturbed"), []) == ("finished", "")
    assert read_result(runs, run.key) == read_result(tmp_path / "undisturbed", run.key)
    assert not list(folder.path.glob(".*.tmp"))


def test_a_failure_that_cannot_be_recorded_is_returned(disk):
    folder = RunFolder(disk.path / "runs", "k")
    folder.path.mkdir(parents=True)
    disk.fill()
    why = f"no space is left for {folder.failure}: free some"
    told = record_failure(folder, Outcome("failed", "ValueError: no"), "trace")
    assert told == ("blocked", f"ValueError: no (and the failure could not be recorded: {why})")
    disk.free()
    assert record_failure(folder, Outcome("failed", "ValueError: no"), "trace") == ("failed", "ValueError: no")


def test_a_write_that_fails_names_the_file_and_leaves_nothing(disk):
    path = disk.path / "deep" / "file"
    write_atomically(path, lambda file: file.write(b"old"))
    disk.fill(leave=10_000)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, lambda file: file.write(bytes(100_000)))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_disk_errors_are_explained():
    full = OSError(errno.ENOSPC, "No space left on device", "x/y")
    assert describe_disk_error(full) == "no space is left for x/y: free some"
    wrapped = ValueError("cannot unpack")
    wrapped.__cause__ = full
    assert describe_disk_error(wrapped) == "no space is left for x/y: free some"
    assert (
        describe_disk_error(OSError(errno.EDQUOT, "quota", "z"))
        == "the disk quota does not leave space for z: free some"
    )
    assert describe_disk_error(FileNotFoundError(errno.ENOENT, "none", "z")) == "", "one run's own"
    assert describe_disk_error(ValueError("no")) == describe_disk_error(None) == ""


@pytest.mark.parametrize("engine", ["inline", pytest.param("processes", marks=pytest.mark.long)])
def test_a_full_disk_stops_the_study_with_one_message(disk, econ, check, study, empty_store, engine):
    runs = disk.path / "runs"
    runs.mkdir()
    shutil.copy(empty_store, runs / "mlflow.db")
    disk.fill(leave=160_000)  # enough for some of the four runs and two trunks, and their copies in the store
    command = ["run", study, "--runs", runs, "--checkpoint-seconds", 0]
    several = ["--engine", "processes", "--workers", 2] if engine == "processes" else []
    code, out, err = econ(*command, *several)
    assert code == 2
    message = (
        rf"error: study rows was stopped: no space is left for {runs}/[\w/]+/[a-z]+\.\w+: free some; finished runs "
    )
    assert re.fullmatch(message + "and checkpoints are kept, and the same command goes on\n", err)
    assert "failed" not in out
    assert out.count("warning: ") <= 1, "the store, on the same disk"
    done = len(list(runs.glob("**/result.json")))
    assert 0 <= done < 6
    if engine == "inline":
        assert econ(*command)[0] == 2, "still full"
    disk.free()
    code, out, err = econ(*command)  # by the quicker engine: what was begun by one is ended by the other
    assert (code, err) == (0, "")
    assert out.count("finished in") == 6 - done, "nothing that was finished is trained again"
    check(study, runs, f"sqlite:///{runs / 'mlflow.db'}")


def test_a_folder_of_runs_that_cannot_be_written_to_is_refused_before_training(disk, econ, check, study, empty_store):
    runs = disk.path / "runs"
    runs.mkdir()
    shutil.copy(empty_store, runs / "mlflow.db")
    disk.lock(runs)
    code, out, err = econ("run", study, "--runs", runs)
    why = f"{runs}/.probe is on a file system that can only be read: make it writable"
    assert (code, out, err) == (2, "", f"error: --runs {runs}: {why}\n")
    disk.unlock()
    assert econ("run", study, "--runs", runs)[0] == 0
    check(study, runs, f"sqlite:///{runs / 'mlflow.db'}")
    disk.lock(runs)
    code, out, err = econ("run", study, "--runs", runs)
    assert (code, out, err) == (0, "study rows: all 4 runs are finished\n", ""), "nothing is left to write"
    code, out, err = econ("status", study, "--runs", runs)
    assert (code, err) == (0, "") and out.startswith("4 finished, 0 running")


def test_a_folder_of_runs_without_hard_links_is_refused_before_training(econ, study, tmp_path, monkeypatch):
    def refuses(self, target):
        raise OSError(errno.EPERM, "Operation not permitted", str(target), None, str(self))

    monkeypatch.setattr(Path, "hardlink_to", refuses)
    code, out, err = econ("run", study)
    assert (code, out) == (2, "")
    assert "runs are claimed by hard links; choose --runs on a file system that has them" in err
    assert not list((tmp_path / "runs").glob(".probe*"))


def test_a_store_on_a_full_disk_lacks_runs_until_there_is_room(disk, econ, check, study, empty_store, tmp_path):
    database = disk.path / "mlflow.db"
    shutil.copy(empty_store, database)
    disk.fill()
    command = ["run", study, "--store", database]
    code, out, err = econ(*command)
    assert (code, err) == (0, ""), "no traceback of the store's"
    what = f"cannot use the tracking store sqlite:///{database}: (sqlite3.OperationalError) database or disk is full"
    assert out.count("warning: ") == out.count(f"warning: {what}; training continues") == 1
    assert f"the tracking store lacks 6 of the runs and trunks: {what}; `econ sync {study}` sends them" in out
    disk.free()
    code, out, _ = econ(*command)
    assert (code, out) == (0, "study rows: all 4 runs are finished\n")
    check(study, tmp_path / "runs", f"sqlite:///{database}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store, environment):
    """Start a tracking server; give its URI, the database behind it and the number of its process group."""
    path = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, path / "mlflow.db")
    store, port = f"sqlite:///{path}/mlflow.db", free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--default-artifact-root", str(path / "artifacts")]
    process = subprocess.Popen(
        command,
        env=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline and process.poll() is None, "the server did not start"
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", store, process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def impatient(monkeypatch):
    """Give up on a server soon, and measure how long the driver is kept waiting by a single sending."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(background_mirror, "FINISH_SECONDS", 3.0)
    waits, send = [], BackgroundMirror.send

    def timed(self, planned, *, live=False):
        start = time.monotonic()
        send(self, planned, live=live)
        waits.append(time.monotonic() - start)

    monkeypatch.setattr(BackgroundMirror, "send", timed)
    return waits


@pytest.mark.long
def test_a_server_that_answers_again_gets_everything_from_the_same_command(
    server, impatient, econ, check, study, tmp_path, monkeypatch
):
    uri, _, group = server
    study = study.rename(tmp_path / "slow.yaml")
    ended, finish, calls = ProgressDisplay.ended, BackgroundMirror.finish, []

    def ending(self, planned, outcome):
        calls.append(planned.key)
        if len(calls) == 1:
            os.killpg(group, signal.SIGSTOP)
        ended(self, planned, outcome)

    def finishing(self, seconds=60.0):
        os.killpg(group, signal.SIGCONT)
        finish(self, seconds)

    monkeypatch.setattr(ProgressDisplay, "ended", ending)
    monkeypatch.setattr(BackgroundMirror, "finish", finishing)
    code, out, _ = econ("run", study, "--store", uri)
    assert code == 0
    assert out.count("warning: ") <= 1
    assert out.endswith("study slow: all 4 runs are finished\n") and "the tracking store lacks" not in out
    check(study, tmp_path / "runs", uri)


@pytest.mark.alone
def test_a_server_that_is_killed_in_mid_run(server, impatient, econ, check, study, tmp_path, monkeypatch):
    """The last one to use the server."""
    uri, store, group = server
    study = study.rename(tmp_path / "killed.yaml")
    ended, calls = ProgressDisplay.ended, []

    def ending(self, planned, outcome):
        calls.append(planned.key)
        if len(calls) == 2:
            os.killpg(group, signal.SIGSTOP)  # it accepts connections, and never answers
        if len(calls) == 3:
            os.killpg(group, signal.SIGKILL)
        ended(self, planned, outcome)

    monkeypatch.setattr(ProgressDisplay, "ended", ending)
    command = ["run", study, "--store", uri]
    code, out, _ = econ(*command)
    assert code == 0, out
    assert out.count("finished in") == 6, "training went on"
    assert out.count(f"warning: cannot use the tracking store {uri}: ") == 1, out
    assert re.search(
        r"the tracking store lacks [2345] of the runs and trunks: .*Connection refused; `econ sync", out
    ), out
    assert max(impatient) < background_mirror.SEND_SECONDS + 2, "the driver waited for a moment only"
    code, out, _ = econ("run", study, "--store", store)  # where the server kept what it had
    assert (code, out) == (0, "study killed: all 4 runs are finished\n")
    check(study, tmp_path / "runs", store)
