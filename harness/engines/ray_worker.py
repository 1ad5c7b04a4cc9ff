"""What a process of a Ray cluster does: it says hello, then executes one run after another. Knows nothing of Ray."""

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
from harness.engines.engine import work
from harness.engines.run_archive import Archive, pack, unpack
from harness.planning.planned_runs import Planned
from harness.running.settings import Settings
from harness.running.worker_process import keep_freed_memory
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder

IDENTITY = ".identity"
"""The file in a folder of run folders that tells it from other machines' folders of the same path."""


@dataclass(frozen=True)
class Orders:
    """What a worker is told once.

    Attributes:
        settings: the driver's, with absolute paths.
        threads: CPU threads to compute with.
        cwd: the driver's working folder, from which relative paths of datasets start.
        identity: of the driver's folder of run folders: the content of its file `IDENTITY`.
        plugins: names and contents of the files of the user's own methods.
        own_data: names and digests of the datasets and OOD datasets given by a path.
        apart: work in a folder of its own even where the driver's can be seen.
    """

    settings: Settings
    threads: int
    cwd: Path
    identity: str
    plugins: tuple[tuple[str, bytes], ...]
    own_data: tuple[tuple[str, str], ...] = ()
    apart: bool = False


class Greeting(NamedTuple):
    """What a worker finds where it is.

    Attributes:
        host: the machine's name.
        apart: whether it works in a folder of its own because it does not see the driver's.
        problems: what is missing.
    """

    host: str
    apart: bool
    problems: list[str]


class Worker:
    """Executes runs in the driver's folder where it is shared, else in one of its own."""

    def __init__(self, orders: Orders) -> None:
        """Look around, and make a folder of its own."""
        with suppress(OSError):  # it may not exist here: then own datasets are missing too, and `greet` says which
            os.chdir(orders.cwd)
        self.orders = orders
        self.sent = 0
        self.apart = orders.apart or not shares(orders.settings.runs, orders.identity)
        base = Path(tempfile.gettempdir()) / f"economical-ensembles-{os.getuid()}"
        self.folder, self.lock = make_folder(base)
        plugins = tuple(self.folder / str(i) / name for i, (name, _) in enumerate(orders.plugins))
        for path, (_, content) in zip(plugins, orders.plugins, strict=True):
            path.parent.mkdir()
            path.write_bytes(content)
        self.settings = replace(orders.settings, plugins=plugins)
        if self.apart:
            downloads = self.settings.downloads if self.settings.downloads.is_dir() else base / "downloads"
            self.settings = replace(self.settings, runs=self.folder / "runs", downloads=downloads)

    def greet(self) -> Greeting:
        """Say what is found here."""
        host = socket.gethostname()
        found = (problem_with(name, digest) for name, digest in self.orders.own_data)
        return Greeting(host, self.apart, [f"{host}: {problem}" for problem in found if problem])

    def work(
        self, planned: Planned, archives: Mapping[str, Archive], *, alone: bool = False
    ) -> tuple[Outcome, Archive]:
        """Execute a run.

        Args:
            planned: the run.
            archives: where storage is not shared, the runs that it needs, and where it stands itself.
            alone: it ran out of memory before.

        Returns:
            How it ended; where storage is not shared, the run's folder, too.
        """
        torch.set_num_threads(self.orders.threads)
        keep_freed_memory()
        settings = replace(self.settings, alone=alone)
        if not self.apart:
            return work(planned, settings), {}
        try:
            self.sent = 0
            for key, archive in archives.items():
                unpack(archive, RunFolder(self.settings.runs, key), whole=True)
            outcome = work(planned, settings)
            return outcome, pack(RunFolder(self.settings.runs, planned.key))
        finally:
            shutil.rmtree(self.settings.runs, ignore_errors=True)

    def look(self, key: str, *, checkpoint: bool) -> Archive:
        """Give how far the run is that this worker executes apart.

        Args:
            key: of the run.
            checkpoint: give its checkpoint too, if it is another one than last time.
        """
        folder = RunFolder(self.settings.runs, key)
        without = {folder.result, folder.failure, folder.predictions, folder.arrays}
        mark = folder.checkpoint_version() if checkpoint else self.sent
        if mark == self.sent:
            without |= {folder.checkpoint, folder.spec}
        self.sent = mark
        return pack(folder, without=frozenset(path.name for path in without))

    def leave(self) -> None:
        """Remove the folder of its own."""
        self.lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def shares(runs: Path, identity: str) -> bool:
    """Say whether this machine sees the driver's folder of run folders, and can write to it."""
    try:
        if (runs / IDENTITY).read_text() != identity:
            return False
        with tempfile.TemporaryFile(dir=runs):
            return True
    except OSError:
        return False


def problem_with(dataset: str, digest: str) -> str:
    """Say what is wrong with a dataset that is given by a path, "" if it is the driver's."""
    path = Path(dataset.partition(":")[2]).absolute()
    try:
        if data.digest(dataset) == digest:
            return ""
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({error}); put it there, or on storage that all machines share"
    return f"{path} is not the driver's, it has other content; put the same there"


def make_folder(base: Path) -> tuple[Path, FileLock]:
    """Make a folder that is this process's alone, and remove those of processes that were killed.

    Raises:
        PermissionError: if another user made the folder around it.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} is not yours; remove it, or set TMPDIR to a folder that is")
    with FileLock(base / "lock"):
        for lock in base.glob("worker-*/lock"):
            with suppress(Timeout), FileLock(lock).acquire(timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="worker-", dir=base))
        held = FileLock(folder / "lock", thread_local=False)
        held.acquire()
    return folder, held
