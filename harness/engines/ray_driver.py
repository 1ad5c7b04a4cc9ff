"""The driver of a Ray cluster: it assigns runs to workers, and collects their progress and results."""

import sys
import time
from typing import Any

from harness.engines.engine import (
    EngineError,
    RunObserver,
    record_end,
    record_ends_elsewhere,
    wait_for_other_drivers,
)
from harness.engines.ray_cluster import Cluster
from harness.engines.ray_worker import WorkerSetup
from harness.engines.ray_worker_pool import RayWorkerPool, WorkerHandle
from harness.engines.retry_queue import MAX_ATTEMPTS, RetryQueue
from harness.engines.run_archive import Archive, pack, unpack
from harness.planning.planned_runs import Planned
from harness.planning.schedule import Schedule
from harness.running.execute import record_dead_run, record_failure
from harness.running.settings import Settings
from harness.store.claim import AlreadyClaimedError, Claim, ClaimError, ClaimLostError, acquire_claim
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, describe_disk_error

PROGRESS_INTERVAL = 1.0
"""Seconds between two readings of the progress of a run without shared storage."""


class Driver:
    """Executes one schedule on one cluster."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        max_workers: int | None,
        setup: WorkerSetup,
        schedule: Schedule,
        settings: Settings,
        observer: RunObserver,
        checkpoint_interval: float,
    ) -> None:
        """Start with no workers. The arguments are those of the engine `Ray` and of its `run`."""
        self.ray, self.cluster = ray, cluster
        self.schedule, self.settings, self.observer = schedule, settings, observer
        self.checkpoint_interval = checkpoint_interval
        self.pool = RayWorkerPool(ray, cluster, max_workers, setup)
        self.retries = RetryQueue(settings.runs)
        self.exclusive: set[str] = set()  # keys of the runs that were out of memory
        self.claims: dict[str, Claim] = {}

    def execute_all(self) -> None:
        """Execute runs until the schedule has none left."""
        try:
            while self.schedule.left:
                self.pool.resize(len(self.schedule.waiting) + len(self.schedule.running))
                self.assign_runs()
                self.pool.request_progress()
                self.handle_answers()
                record_ends_elsewhere(self.schedule, self.settings, self.observer)
                self.observer.tick()
            self.pool.stop_idle(0)
        finally:
            self.pool.kill_all()
            for claim in self.claims.values():
                claim.release()

    def assign_runs(self) -> None:
        """Assign a run to every idle worker, as long as runs can start."""
        for worker in list(self.pool.workers):
            if worker.idle and (key := self.take_run()):
                self.assign(worker, key)

    def take_run(self) -> str | None:
        """Return the key of the next run that can start, or None.

        Runs that lost their worker come last, one at a time. A run that was out of memory waits until no other runs.
        """
        running = {worker.key for worker in self.pool.workers if worker.key}
        if running & self.exclusive:
            return None
        return self.schedule.take() or self.retries.take(running, self.exclusive)

    def assign(self, worker: WorkerHandle, key: str) -> None:
        """Start a run in a worker. Without shared storage, send everything that the run starts from."""
        planned = self.schedule.runs[key]
        try:
            archives = {} if worker.shares_storage else self.claim_and_pack(planned)
        except AlreadyClaimedError as error:
            self.end_run(key, Outcome("elsewhere", str(error)))
            return
        except OSError as error:
            self.end_run(key, Outcome("blocked", describe_disk_error(error) or str(error)))
            return
        if alone := key in self.exclusive:
            for other in [other for other in self.pool.workers if other is not worker]:
                self.pool.kill(other)  # frees the GPU memory that idle processes keep
        worker.key, worker.job = key, worker.actor.execute.remote(planned, archives, alone=alone)
        now = time.monotonic()
        worker.next_progress, worker.next_checkpoint = now + PROGRESS_INTERVAL, now + self.checkpoint_interval
        self.observer.started(planned)

    def claim_and_pack(self, planned: Planned) -> dict[str, Archive]:
        """Claim a run for a worker without shared storage, and pack the run folders that it starts from.

        Raises:
            AlreadyClaimedError: if another driver works on the run.
            OSError: if the folder cannot be read or written.
        """
        folder = self.folder(planned.key)
        self.claims[planned.key] = acquire_claim(folder.path, self.settings.driver)
        folder.remove_leftovers()
        return {key: pack(self.folder(key)) for key in (*self.list_inputs(planned), planned.key)}

    def list_inputs(self, planned: Planned) -> list[str]:
        """List the runs that a run needs. If the run has no checkpoint yet, include its latest trunk that has one."""
        begun = self.folder(planned.key).checkpoint.exists()
        trunks = [] if begun else [key for key in planned.trunks if self.folder(key).checkpoint.exists()]
        diverged = [key for key in planned.trunks if self.folder(key).failure.exists()]
        return [*planned.needs, *planned.reference_runs, *trunks[:1], *diverged]

    def handle_answers(self) -> None:
        """Wait a moment, or until a worker answers. Handle all answers, results before progress."""
        calls = self.pool.pending_calls()
        if not calls:
            wait_for_other_drivers(self.schedule, self.settings, self.observer)
            return
        self.ray.wait(list(calls), timeout=0.5)
        answered, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for ref in sorted(answered, key=lambda ref: ref == calls[ref].progress):
            worker = calls[ref]
            if ref == worker.description:
                self.pool.finish_start(worker)
            elif ref == worker.job:
                self.handle_result(worker)
            elif ref == worker.progress:  # skips the progress of a run whose result was handled just now
                self.handle_progress(worker)

    def handle_progress(self, worker: WorkerHandle) -> None:
        """Save the progress of a run in the driver's run folder.

        Raises:
            EngineError: if it cannot be written.
        """
        folder, ref = self.folder(worker.key), worker.progress
        worker.progress, worker.next_progress = None, time.monotonic() + PROGRESS_INTERVAL
        try:
            archive: Archive = self.ray.get(ref)
        except self.ray.exceptions.RayError:
            return  # either the worker is lost, and the call that executes the run fails too, or the next call works
        try:
            unpack(archive, folder, whole=False)
        except ClaimLostError as error:
            self.pool.kill(worker)
            self.end_run(folder.key, Outcome("elsewhere", str(error)))
            return
        except OSError as error:
            raise EngineError(f"a checkpoint from a worker could not be saved: {error}") from error
        if folder.checkpoint.name in archive:
            worker.next_checkpoint = time.monotonic() + self.checkpoint_interval

    def handle_result(self, worker: WorkerHandle) -> None:
        """Save the result of a run that has ended, and record or retry the run."""
        key, ref = worker.key, worker.job
        worker.key, worker.job, worker.progress = "", None, None
        folder = self.folder(key)
        try:
            outcome, archive = self.ray.get(ref)
            unpack(archive, folder, whole=bool(archive))
            if outcome.state == "blocked" and not worker.shares_storage:
                outcome = Outcome("blocked", f"on {worker.host}, {outcome.reason}")
        except self.ray.exceptions.RayTaskError as error:  # an error outside the run; the worker is alive
            if reason := describe_disk_error(error.cause):
                outcome = Outcome("blocked", f"on {worker.host}, {reason}")
            else:
                outcome = record_failure(
                    folder, Outcome("failed", f"{type(error.cause).__name__}: {error.cause}"), str(error)
                )
        except self.ray.exceptions.RayError:
            self.handle_worker_death(worker, key)
            return
        except ClaimError as error:
            outcome = Outcome("elsewhere", str(error))
        except OSError as error:
            outcome = Outcome("blocked", f"its result could not be saved: {describe_disk_error(error) or error}")
        if outcome.state not in ("finished", "elsewhere") and self.cluster.gpus:
            self.pool.kill(worker)  # after some errors a process cannot use its GPU any more
        if outcome.state == "out of memory":
            self.exclusive.add(key)
            self.release_claim(key)
            self.retries.add(key)
        else:
            self.end_run(key, outcome)

    def handle_worker_death(self, worker: WorkerHandle, key: str) -> None:
        """Retry a run whose worker died, or let it fail if that happened too often without progress."""
        self.pool.kill(worker)  # it may be alive and only unreachable
        self.release_claim(key)
        if self.folder(key).finished:  # the worker died after it
            self.end_run(key, Outcome("finished"))
            return
        if self.retries.count_loss(key) < MAX_ATTEMPTS:
            self.retries.add(key)
            run = self.schedule.runs[key].run
            print(f"{run}: its worker process died; the run will resume from its last checkpoint", file=sys.stderr)
            return
        reason = f"its worker process died {MAX_ATTEMPTS} times (killed, or out of memory)"
        self.end_run(key, record_dead_run(self.folder(key), reason, self.settings))

    def end_run(self, key: str, outcome: Outcome) -> None:
        """Release the claim of a run, and record how it ended."""
        self.release_claim(key)
        if outcome.state != "elsewhere":  # such a run may come back: a lost machine may still hold its claim
            self.retries.forget(key)
        record_end(self.schedule, self.observer, key, outcome)

    def release_claim(self, key: str) -> None:
        """Release the claim of a run, if the driver holds it."""
        if claim := self.claims.pop(key, None):
            claim.release()

    def folder(self, key: str) -> RunFolder:
        """Return the driver's own folder of a run."""
        return RunFolder(self.settings.runs, key)
