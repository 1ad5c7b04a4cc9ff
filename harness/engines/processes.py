"""The engine that executes several runs at once on one machine, each in a worker process."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace

import torch

from harness.engines.device_slots import DeviceSlots
from harness.engines.engine import (
    RunObserver,
    execute_planned,
    record_end,
    record_ends_elsewhere,
    wait_for_other_drivers,
)
from harness.engines.retry_queue import MAX_ATTEMPTS, RetryQueue
from harness.planning.planned_runs import Planned
from harness.planning.schedule import Schedule
from harness.running.execute import record_dead_run
from harness.running.settings import Settings
from harness.running.worker_process import initialize_worker, interrupts_blocked
from harness.store.claim import free_if_owner_dead
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder


class Processes:
    """Executes several runs at once. Each slot has a worker process that executes one run after another."""

    def __init__(self, workers: int, threads: int, devices: Sequence[str] = ()) -> None:
        """Configure the slots.

        Args:
            workers: number of slots on the device of the settings. Ignored if there are `devices`.
            threads: CPU threads of each process.
            devices: the device of each slot. A device that takes several runs at once is listed several times.
        """
        self.workers, self.threads, self.devices = workers, threads, tuple(devices)

    def run(self, schedule: Schedule, settings: Settings, observer: RunObserver) -> None:
        """Execute runs until the schedule has none left. A run whose process died resumes from its checkpoint."""
        devices = self.devices or [settings.device] * self.workers
        pool = WorkerPool(devices, self.threads, schedule, settings, observer)
        try:
            while schedule.left:
                pool.start_runs()
                pool.handle_ended_runs()
                record_ends_elsewhere(schedule, settings, observer)
                observer.tick()
        finally:
            pool.stop()


class WorkerPool:
    """The worker processes that execute one schedule, one for each slot."""

    def __init__(
        self, devices: Sequence[str], threads: int, schedule: Schedule, settings: Settings, observer: RunObserver
    ) -> None:
        """Prepare the workers without starting a process."""
        self.schedule, self.settings, self.observer = schedule, settings, observer
        self.slots = DeviceSlots(devices)
        self.workers = [WorkerProcess(device, threads) for device in devices]
        self.slot_of: dict[Future[Outcome], int] = {}
        self.retries = RetryQueue(settings.runs)

    def start_runs(self) -> None:
        """Start runs in free slots. Start those that must have their device alone first."""
        for slot, key in self.slots.occupy_reserved():
            for other in self.slots.slots_of(self.slots.devices[slot]):
                self.workers[other].stop()  # frees the device memory that idle processes keep
            self.start_run(slot, key, alone=True)
        while (free := self.slots.find_free_slot()) is not None and (waiting := self.schedule.take()) is not None:
            self.slots.occupy(free, waiting)
            self.start_run(free, waiting)

    def start_run(self, slot: int, key: str, *, alone: bool = False) -> None:
        """Start a run in the worker of a slot."""
        planned = self.schedule.runs[key]
        settings = replace(self.settings, device=self.slots.devices[slot], alone=alone)
        self.slot_of[self.workers[slot].submit(planned, settings)] = slot
        self.observer.started(planned)

    def handle_ended_runs(self) -> None:
        """Wait a moment, or until a run ends. Handle every run that has ended."""
        if not self.slot_of:
            wait_for_other_drivers(self.schedule, self.settings, self.observer)
            return
        done, _ = wait(self.slot_of, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            slot = self.slot_of.pop(future)
            key = self.slots.release(slot)
            if isinstance(future.exception(), BrokenProcessPool):
                self.handle_worker_death(slot, key)
            else:
                self.handle_outcome(slot, key, future.result())

    def handle_outcome(self, slot: int, key: str, outcome: Outcome) -> None:
        """Record the outcome of a run. Retry a run that is out of memory alone on its device."""
        device = self.slots.devices[slot]
        if outcome.state not in ("finished", "elsewhere") and torch.device(device).type != "cpu":
            self.workers[slot].stop()  # after some errors a process cannot use its GPU any more
        if outcome.state == "out of memory":
            self.slots.reserve(device, key)
        else:
            record_end(self.schedule, self.observer, key, outcome)

    def handle_worker_death(self, slot: int, key: str) -> None:
        """Retry a run whose process died. The last attempt is alone on its device."""
        self.workers[slot].stop()
        losses = self.retries.count_loss(key)
        folder = RunFolder(self.settings.runs, key)
        if folder.finished:
            record_end(self.schedule, self.observer, key, Outcome("finished"))
        elif losses == MAX_ATTEMPTS:
            reason = f"its worker process died {MAX_ATTEMPTS} times (killed, or out of memory)"
            record_end(self.schedule, self.observer, key, record_dead_run(folder, reason, self.settings))
        elif losses == MAX_ATTEMPTS - 1:
            self.slots.reserve(self.slots.devices[slot], key)
        else:
            self.schedule.put_back(key)

    def stop(self) -> None:
        """Kill the workers, and free the claims of their runs for other drivers."""
        for worker in self.workers:
            worker.stop()
        for slot in self.slot_of.values():
            with suppress(OSError):  # other drivers find out by themselves, only later
                free_if_owner_dead(RunFolder(self.settings.runs, self.slots.runs[slot]).path)


class WorkerProcess:
    """A process that executes one run after another. It starts with the next run, again after every stop."""

    def __init__(self, device: str, threads: int) -> None:
        """Configure the process without starting it."""
        self.device, self.threads = device, threads
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, planned: Planned, settings: Settings) -> Future[Outcome]:
        """Execute a run in the process."""
        if self.pool is not None:
            try:
                return self.pool.submit(execute_planned, planned, settings)
            except BrokenProcessPool:  # it died while it was idle
                self.stop()
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=initialize_worker, initargs=(self.threads,))
        with interrupts_blocked():
            return self.pool.submit(execute_planned, planned, settings)

    def stop(self) -> None:
        """Kill the process. Work since the last checkpoint is lost."""
        if self.pool is None:
            return
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        self.pool = None
