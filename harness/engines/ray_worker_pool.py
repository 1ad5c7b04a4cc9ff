"""The workers of one driver on a Ray cluster: starts and stops them, and tracks the calls to them."""

import sys
import time
from dataclasses import dataclass
from typing import Any

from harness.engines.engine import EngineError
from harness.engines.ray_cluster import Cluster
from harness.engines.ray_worker import Worker, WorkerDescription, WorkerSetup
from harness.engines.retry_queue import MAX_ATTEMPTS

CAPACITY_INTERVAL = 5.0
"""Seconds between two counts of the cluster's capacity."""
START_WARNING_SECONDS = 30.0
"""Seconds without any started worker after which the driver prints what it waits for."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker process as the driver sees it. The first three attributes after `actor` are pending calls, or None.

    Attributes:
        actor: Ray's handle of the process.
        description: the call that describes the worker, pending until it has started.
        job: the call that executes a run.
        progress: the call that reads the progress of the run.
        key: of the run; "" for none.
        shares_storage: whether it works in the driver's folder of run folders.
        host: the machine's name.
        next_progress: time at which to ask for progress next.
        next_checkpoint: time at which to ask for a checkpoint next.
    """

    actor: Any
    description: Any
    job: Any = None
    progress: Any = None
    key: str = ""
    shares_storage: bool = True
    host: str = ""
    next_progress: float = 0.0
    next_checkpoint: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it can take a run."""
        return self.description is None and not self.key


class RayWorkerPool:
    """The workers of one driver.

    Attributes:
        workers: handles of all workers, including those that have not started yet.
        failed_starts: number of workers that failed to start since the last one that did.
    """

    def __init__(self, ray: Any, cluster: Cluster, max_workers: int | None, setup: WorkerSetup) -> None:
        """Start with no workers.

        Args:
            ray: the module `ray`, or a stand-in.
            cluster: which cluster, and the resources of each run.
            max_workers: maximum number of workers; None for as many as the cluster has room for.
            setup: what each worker receives when it starts.
        """
        self.ray, self.cluster, self.max_workers, self.setup = ray, cluster, max_workers, setup
        self.workers: list[WorkerHandle] = []
        self.failed_starts = 0
        self.capacity, self.next_count = 0, 0.0
        self.waiting_since: float | None = time.monotonic()
        # Ray restarts and retries nothing by itself: the driver alone decides about retries.
        self.actor_class: Any = ray.remote(Worker).options(
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # one thread executes a run, the other one reads its progress
        )

    def resize(self, runs: int) -> None:
        """Start workers, or stop idle ones, to have one for each run as far as the cluster has room.

        Args:
            runs: number of runs that are waiting or running.

        Raises:
            EngineError: if the cluster has no room for any worker.
        """
        if time.monotonic() >= self.next_count:
            self.capacity, self.next_count = self.count_capacity(), time.monotonic() + CAPACITY_INTERVAL
        wanted = min(self.capacity, runs)
        while len(self.workers) < wanted:
            actor = self.actor_class.remote(self.setup)
            self.workers.append(WorkerHandle(actor, actor.describe.remote()))
        self.stop_idle(wanted)
        if self.waiting_since and time.monotonic() - self.waiting_since > START_WARNING_SECONDS:
            self.waiting_since = None
            print(
                f"waiting for the Ray cluster: no worker has started in {START_WARNING_SECONDS:g} s; a run needs "
                f"{self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs, which may be in use (see `ray status`)",
                file=sys.stderr,
            )

    def count_capacity(self) -> int:
        """Count the runs for which the cluster has room at once, up to `max_workers`.

        Raises:
            EngineError: if it has room for none, and there are no workers.
        """
        if self.max_workers and not self.cluster.local:
            return self.max_workers  # may exceed the room, so that a cluster that can grow does
        room = sum(self.cluster.fits(node["Resources"]) for node in self.ray.nodes() if node["Alive"])
        if not room and not self.workers:
            raise EngineError(
                f"no machine of the Ray cluster has the {self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs that "
                "a run needs: ask for less (--cpus-per-run, --gpus-per-run), or start machines (`ray start`)"
            )
        return min(room, self.max_workers or room)

    def stop_idle(self, wanted: int) -> None:
        """Stop idle workers until only `wanted` workers are left.

        Each removes its private folder. Ray ends a process after its last call if no handle of it is left.
        """
        idle = [worker for worker in self.workers if worker.idle][: max(0, len(self.workers) - wanted)]
        cleaning = [worker.actor.clean_up.remote() for worker in idle]
        self.workers = [worker for worker in self.workers if worker not in idle]
        if cleaning:
            self.ray.wait(cleaning, num_returns=len(cleaning), timeout=1.0)

    def request_progress(self) -> None:
        """Ask the workers without shared storage for their progress, and at longer intervals for a checkpoint."""
        now = time.monotonic()
        for worker in self.workers:
            pending = worker.progress is not None
            if not worker.shares_storage and worker.key and not pending and now >= worker.next_progress:
                checkpoint = now >= worker.next_checkpoint
                worker.progress = worker.actor.read_progress.remote(worker.key, checkpoint=checkpoint)

    def pending_calls(self) -> dict[Any, WorkerHandle]:
        """Return all pending calls with their workers."""
        return {
            ref: worker
            for worker in self.workers
            for ref in (worker.description, worker.job, worker.progress)
            if ref is not None
        }

    def kill(self, worker: WorkerHandle) -> None:
        """Kill a worker."""
        self.workers.remove(worker)
        self.ray.kill(worker.actor)

    def kill_all(self) -> None:
        """Kill all workers."""
        for worker in self.workers:
            self.ray.kill(worker.actor)

    def finish_start(self, worker: WorkerHandle) -> None:
        """Read the description of a worker that has started, or remove a worker that failed to start.

        Raises:
            EngineError: if workers cannot be started, or if the machine lacks something that runs need.
        """
        try:
            description: WorkerDescription = self.ray.get(worker.description)
        except self.ray.exceptions.RayError as error:
            self.workers.remove(worker)
            self.failed_starts += 1
            if self.failed_starts >= MAX_ATTEMPTS:
                raise EngineError(f"no worker could be started on the Ray cluster: {error}") from error
            return
        if description.problems:
            raise EngineError("\n".join(description.problems))
        worker.description = None
        worker.shares_storage, worker.host = description.shares_storage, description.host
        self.failed_starts, self.waiting_since = 0, None
