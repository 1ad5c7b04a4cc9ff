"""The worker process on a Ray cluster: it describes its machine, then executes one run after another.

This module does not import Ray.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout

import data
from harness.cache.user_cache import DigestCache
from harness.engines.engine import execute_planned
from harness.engines.run_archive import Archive, pack, unpack
from harness.planning.planned_runs import Planned
from harness.running.settings import Settings
from harness.running.worker_process import keep_freed_memory
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder

FOLDER_ID = ".identity"
"""Name of the file with the identifier of a folder of run folders.

The identifier distinguishes the driver's folder from a folder with the same path on another machine.
"""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker receives when it starts.

    Attributes:
        settings: of the driver, with absolute paths.
        threads: number of CPU threads to compute with.
        cwd: the driver's working folder. Relative paths of datasets start there.
        folder_id: identifier of the driver's folder of run folders.
        plugins: names of the files with the user's own methods, each with the contents of all files it is made of.
        datasets: names and digests of the datasets and OOD datasets that are given by a path.
        share_storage: whether to use the driver's folder of run folders where the worker sees it.
    """

    settings: Settings
    threads: int
    cwd: Path
    folder_id: str
    plugins: tuple[tuple[str, Mapping[str, bytes]], ...]
    datasets: tuple[tuple[str, str], ...] = ()
    share_storage: bool = True


class WorkerDescription(NamedTuple):
    """What a worker reports after its start.

    Attributes:
        host: the machine's name.
        shares_storage: whether it works in the driver's folder of run folders, and not in one of its own.
        problems: what the machine lacks.
    """

    host: str
    shares_storage: bool
    problems: list[str]


class Worker:
    """Executes runs in the driver's folder of run folders if it sees that folder, and in one of its own otherwise."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Check for shared storage, and create a private folder."""
        with suppress(OSError):  # without this folder, datasets are missing too, and `describe` reports them
            os.chdir(setup.cwd)
        self.setup = setup
        self.sent_checkpoint = 0
        self.shares_storage = setup.share_storage and sees_folder(setup.settings.runs, setup.folder_id)
        base = Path(tempfile.gettempdir()) / f"economical-ensembles-{os.getuid()}"
        self.folder, self.lock = make_private_folder(base)
        plugins = tuple(self.folder / str(i) / name for i, (name, _) in enumerate(setup.plugins))
        for plugin, (_, files) in zip(plugins, setup.plugins, strict=True):
            for name, content in files.items():
                path = plugin.parent / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self.settings = replace(setup.settings, plugins=plugins)
        if not self.shares_storage:
            downloads = self.settings.downloads if self.settings.downloads.is_dir() else base / "downloads"
            self.settings = replace(self.settings, runs=self.folder / "runs", downloads=downloads)

    def describe(self) -> WorkerDescription:
        """Describe this worker and its machine."""
        host = socket.gethostname()
        found = (find_problem(name, digest) for name, digest in self.setup.datasets)
        return WorkerDescription(host, self.shares_storage, [f"{host}: {problem}" for problem in found if problem])

    def execute(
        self, planned: Planned, archives: Mapping[str, Archive], *, alone: bool = False
    ) -> tuple[Outcome, Archive]:
        """Execute a run.

        Args:
            planned: the run.
            archives: without shared storage, the run folders of the run itself and of the runs that it needs, by key.
            alone: whether the run was out of memory before and now has the device alone.

        Returns:
            How the run ended, and without shared storage its run folder.
        """
        torch.set_num_threads(self.setup.threads)
        keep_freed_memory()
        settings = replace(self.settings, alone=alone)
        if self.shares_storage:
            return execute_planned(planned, settings), {}
        try:
            self.sent_checkpoint = 0
            for key, archive in archives.items():
                unpack(archive, RunFolder(self.settings.runs, key), whole=True)
            outcome = execute_planned(planned, settings)
            return outcome, pack(RunFolder(self.settings.runs, planned.key))
        finally:
            shutil.rmtree(self.settings.runs, ignore_errors=True)

    def read_progress(self, key: str, *, checkpoint: bool) -> Archive:
        """Return the progress of a run that this worker executes without shared storage.

        Args:
            key: of the run.
            checkpoint: whether to include the checkpoint, if it has changed since the last call that did.
        """
        folder = RunFolder(self.settings.runs, key)
        without = {folder.result, folder.failure, folder.predictions, folder.arrays}
        mark = folder.checkpoint_version() if checkpoint else self.sent_checkpoint
        if mark == self.sent_checkpoint:
            without |= {folder.checkpoint, folder.spec, folder.source}
        self.sent_checkpoint = mark
        return pack(folder, without=frozenset(path.name for path in without))

    def clean_up(self) -> None:
        """Remove the private folder."""
        self.lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def sees_folder(runs: Path, folder_id: str) -> bool:
    """Check whether this machine sees the driver's folder of run folders, and can write to it."""
    try:
        if (runs / FOLDER_ID).read_text() != folder_id:
            return False
        with tempfile.TemporaryFile(dir=runs):
            return True
    except OSError:
        return False


def find_problem(dataset: str, digest: str) -> str:
    """Return what is wrong with a dataset that is given by a path, or "" if its content is that of the driver's."""
    path = Path(dataset.partition(":")[2]).absolute()
    try:
        if data.digest(dataset, DigestCache()) == digest:
            return ""
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({error}); copy it there, or to storage that all machines share"
    return f"{path} differs from the driver's file; copy the driver's file there"


def make_private_folder(base: Path) -> tuple[Path, FileLock]:
    """Create a folder for this process alone, and remove the folders of processes that were killed.

    Returns:
        The folder, and the lock that marks it as used.

    Raises:
        PermissionError: if `base` belongs to another user.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to another user; remove it, or set TMPDIR to a folder of yours")
    with FileLock(base / "lock"):
        for lock in base.glob("worker-*/lock"):
            with suppress(Timeout), FileLock(lock).acquire(timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="worker-", dir=base))
        held = FileLock(folder / "lock", thread_local=False)
        held.acquire()
    return folder, held
