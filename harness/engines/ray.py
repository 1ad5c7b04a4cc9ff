"""The engine that executes runs on a Ray cluster of one or many machines."""

import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.engines.engine import EngineError, RunObserver
from harness.engines.ray_cluster import Cluster, connected
from harness.engines.ray_driver import Driver
from harness.engines.ray_worker import FOLDER_ID, WorkerSetup
from harness.parsing.plugins import load_plugins
from harness.planning.schedule import Schedule
from harness.running.settings import Settings
from harness.store.run_folder import write_atomically
from harness.studies.run import Run


class Ray:
    """Executes several runs at once on a Ray cluster, each in a worker process that takes one run after another."""

    def __init__(
        self,
        max_workers: int | None,
        threads: int,
        cluster: Cluster | None = None,
        *,
        checkpoint_interval: float = 30.0,
        share_storage: bool = True,
    ) -> None:
        """Configure the cluster and the number of runs at once.

        Args:
            max_workers: maximum number of runs at once; None for as many as the cluster has room for.
            threads: CPU threads of each run.
            cluster: which cluster to use; None for one on this machine.
            checkpoint_interval: seconds between two checkpoints fetched from a worker without shared storage.
            share_storage: let workers use the driver's folder of runs where they see it. If False, every worker uses a
                folder of its own.
        """
        self.max_workers, self.threads, self.cluster = max_workers, threads, cluster or Cluster()
        self.checkpoint_interval, self.share_storage = checkpoint_interval, share_storage

    def run(self, schedule: Schedule, settings: Settings, observer: RunObserver) -> None:
        """Execute runs until the schedule has none left. A run whose worker died resumes from its checkpoint.

        Raises:
            EngineError: if there is no cluster, if no machine has room for a run, or if a machine lacks something that
                runs need.
        """
        if not schedule.waiting:
            return
        setup = self.worker_setup(schedule, settings)
        with connected(self.cluster, self.max_workers) as ray:
            driver = Driver(
                ray, self.cluster, self.max_workers, setup, schedule, settings, observer, self.checkpoint_interval
            )
            driver.execute_all()

    def worker_setup(self, schedule: Schedule, settings: Settings) -> WorkerSetup:
        """Return what a worker receives when it starts."""
        absolute = replace(settings, runs=settings.runs.absolute(), downloads=settings.downloads.absolute())
        plugins = tuple((plugin.path.name, plugin.source.files) for plugin in load_plugins(settings.plugins))
        same_files = self.cluster.local and self.share_storage
        datasets = () if same_files else datasets_by_path(schedule)
        folder_id = read_folder_id(settings.runs)
        return WorkerSetup(absolute, self.threads, Path.cwd(), folder_id, plugins, datasets, self.share_storage)


def datasets_by_path(schedule: Schedule) -> tuple[tuple[str, str], ...]:
    """List the datasets and OOD datasets that are given by a path and still needed, with their digests."""
    found: set[tuple[str, str]] = set()
    for key in schedule.waiting:
        if isinstance(run := schedule.runs[key].run, Run):
            dataset = run.dataset
            found |= {(dataset.name, dataset.digest or ""), *zip(dataset.ood or (), dataset.ood_digests, strict=False)}
    return tuple(sorted((name, digest) for name, digest in found if digest))


def read_folder_id(runs: Path) -> str:
    """Return the identifier of a folder of run folders, and create it if there is none.

    A worker compares the identifier to find out whether it sees the driver's folder.

    Raises:
        EngineError: if the folder has no identifier and cannot be written.
    """
    path = runs / FOLDER_ID
    try:
        if not path.exists():
            token = secrets.token_hex(16)
            mine = runs / f"{FOLDER_ID}.{token}"
            write_atomically(mine, lambda file: file.write(token.encode()))
            with suppress(FileExistsError):  # another driver was faster
                path.hardlink_to(mine)
            mine.unlink()
        return path.read_text()
    except OSError as error:
        raise EngineError(f"the folder of runs cannot be used: {error}") from error
