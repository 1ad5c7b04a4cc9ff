"""Many machines: runs on a Ray cluster, each in a worker process that takes one run after another."""

import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.engines.engine import EngineError, Watch
from harness.engines.ray_cluster import Cluster, connected
from harness.engines.ray_driver import Driver
from harness.engines.ray_worker import IDENTITY, Orders
from harness.planning.schedule import Schedule
from harness.running.settings import Settings
from harness.store.run_folder import write_atomically
from harness.studies.run import Run


class Ray:
    """Several runs at once on a Ray cluster of one or many machines."""

    def __init__(
        self,
        workers: int | None,
        threads: int,
        cluster: Cluster | None = None,
        *,
        home: float = 30.0,
        apart: bool = False,
    ) -> None:
        """Say how many runs at once, and where.

        Args:
            workers: runs at once; None for as many as the cluster has room for.
            threads: CPU threads a run.
            cluster: which cluster; None for one on this machine.
            home: seconds after which a checkpoint comes home again from a worker that shares no storage.
            apart: treat every worker as one that shares no storage.
        """
        self.workers, self.threads, self.cluster = workers, threads, cluster or Cluster()
        self.home, self.apart = home, apart

    def run(self, schedule: Schedule, settings: Settings, watch: Watch) -> None:
        """Execute until nothing is left; a run whose worker died goes on from its checkpoint.

        Raises:
            EngineError: if there is no cluster, no machine with room for a run, or a machine that lacks what runs need.
        """
        if not schedule.waiting:
            return
        orders = self.orders(schedule, settings)
        with connected(self.cluster, self.workers) as ray:
            Driver(ray, self.cluster, self.workers, orders, schedule, settings, watch, self.home).work()

    def orders(self, schedule: Schedule, settings: Settings) -> Orders:
        """Write down what each worker must know."""
        absolute = replace(settings, runs=settings.runs.absolute(), downloads=settings.downloads.absolute())
        plugins = tuple((plugin.name, plugin.read_bytes()) for plugin in settings.plugins)
        here = self.cluster.local and not self.apart
        own = () if here else own_data(schedule)
        return Orders(absolute, self.threads, Path.cwd(), identify(settings.runs), plugins, own, self.apart)


def own_data(schedule: Schedule) -> tuple[tuple[str, str], ...]:
    """List the datasets and OOD datasets given by a path that runs still need, with the digest the driver found."""
    found: set[tuple[str, str]] = set()
    for key in schedule.waiting:
        if isinstance(run := schedule.runs[key].run, Run):
            dataset = run.dataset
            found |= {(dataset.name, dataset.digest or ""), *zip(dataset.ood or (), dataset.ood_digests, strict=False)}
    return tuple(sorted((name, digest) for name, digest in found if digest))


def identify(runs: Path) -> str:
    """Give the identity of a folder of run folders, by which a worker finds out whether it sees the same one.

    Raises:
        EngineError: if it has none yet, and cannot be written.
    """
    path = runs / IDENTITY
    try:
        if not path.exists():
            token = secrets.token_hex(16)
            mine = runs / f"{IDENTITY}.{token}"
            write_atomically(mine, lambda file: file.write(token.encode()))
            with suppress(FileExistsError):  # another driver was quicker
                path.hardlink_to(mine)
            mine.unlink()
        return path.read_text()
    except OSError as error:
        raise EngineError(f"the folder of runs cannot be used: {error}") from error
