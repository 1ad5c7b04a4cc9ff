"""Several runs at once on one machine, each in a worker process of its slot, which takes one run after another."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace

import torch

from harness.engines.device_slots import Slots
from harness.engines.engine import Watch, end, look, rest, work
from harness.engines.lost_workers import TRIES, Losses
from harness.planning.plan import Planned
from harness.planning.schedule import Schedule
from harness.running.execute import record_dead_run
from harness.running.settings import Settings
from harness.running.worker_process import initialize_worker
from harness.store.claim import free_if_dead
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder


class Processes:
    """Several runs at once, each in a process of its own that takes one run after another."""

    def __init__(self, workers: int, threads: int, devices: Sequence[str] = ()) -> None:
        """Use one process a slot.

        Args:
            workers: how many slots, all on the device of the settings; not used if there are `devices`.
            threads: of each process.
            devices: of each slot; a device that takes several runs at once is there several times.
        """
        self.workers, self.threads, self.devices = workers, threads, tuple(devices)

    def run(self, schedule: Schedule, settings: Settings, watch: Watch) -> None:
        """Execute until nothing is left; a run whose process died goes on from its checkpoint."""
        crew = Crew(self.devices or [settings.device] * self.workers, self.threads, schedule, settings, watch)
        try:
            while schedule.left:
                crew.fill()
                crew.collect()
                look(schedule, settings, watch)
                watch.tick()
        finally:
            crew.stop()


class Crew:
    """The workers of one execution of a schedule, one a slot."""

    def __init__(
        self, devices: Sequence[str], threads: int, schedule: Schedule, settings: Settings, watch: Watch
    ) -> None:
        """Start no process yet."""
        self.schedule, self.settings, self.watch = schedule, settings, watch
        self.slots = Slots(devices)
        self.workers = [Worker(device, threads) for device in devices]
        self.working: dict[Future[Outcome], int] = {}
        self.losses = Losses(settings.runs)

    def fill(self) -> None:
        """Put runs into free slots; those that must be alone go first."""
        for slot, key in self.slots.begin_alone():
            for other in self.slots.on(self.slots.devices[slot]):
                self.workers[other].stop()  # which frees what idle processes keep of the device's memory
            self.start(slot, key, alone=True)
        while (free := self.slots.free()) is not None and (left := self.schedule.take()) is not None:
            self.slots.begin(free, left)
            self.start(free, left)

    def start(self, slot: int, key: str, *, alone: bool = False) -> None:
        """Let the worker of a slot execute a run."""
        planned = self.schedule.runs[key]
        settings = replace(self.settings, device=self.slots.devices[slot], alone=alone)
        self.working[self.workers[slot].start(planned, settings)] = slot
        self.watch.started(planned)

    def collect(self) -> None:
        """Wait until some run ends, or for a moment, and see to what ended."""
        if not self.working:
            rest(self.schedule, self.settings, self.watch)
            return
        done, _ = wait(self.working, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            slot = self.working.pop(future)
            key = self.slots.end(slot)
            if isinstance(future.exception(), BrokenProcessPool):
                self.died(slot, key)
            else:
                self.ended(slot, key, future.result())

    def ended(self, slot: int, key: str, outcome: Outcome) -> None:
        """See to a run that ended: one that ran out of memory is tried again alone on its device."""
        device = self.slots.devices[slot]
        if outcome.state not in ("finished", "elsewhere") and torch.device(device).type != "cpu":
            self.workers[slot].stop()  # after some errors a process can use its GPU no more
        if outcome.state == "out of memory":
            self.slots.ask_alone(device, key)
        else:
            end(self.schedule, self.watch, key, outcome)

    def died(self, slot: int, key: str) -> None:
        """See to a run whose process died: it is tried again, the last time alone on its device."""
        self.workers[slot].stop()
        deaths = self.losses.count(key)
        folder = RunFolder(self.settings.runs, key)
        if folder.finished:
            end(self.schedule, self.watch, key, Outcome("finished"))
        elif deaths == TRIES:
            reason = f"its worker process died {TRIES} times (killed, or out of memory)"
            end(self.schedule, self.watch, key, record_dead_run(folder, reason, self.settings))
        elif deaths == TRIES - 1:
            self.slots.ask_alone(self.slots.devices[slot], key)
        else:
            self.schedule.put_back(key)

    def stop(self) -> None:
        """End the workers at once, and leave what they worked on to other drivers."""
        for worker in self.workers:
            worker.stop()
        for slot in self.working.values():
            with suppress(OSError):  # they see for themselves, if later
                free_if_dead(RunFolder(self.settings.runs, self.slots.runs[slot]).path)


class Worker:
    """A process that executes one run after another; it is started when it is needed, again and again."""

    def __init__(self, device: str, threads: int) -> None:
        """Note what it uses."""
        self.device, self.threads = device, threads
        self.pool: ProcessPoolExecutor | None = None

    def start(self, planned: Planned, settings: Settings) -> Future[Outcome]:
        """Execute a run in the process."""
        if self.pool is not None:
            try:
                return self.pool.submit(work, planned, settings)
            except BrokenProcessPool:  # it died while it was idle
                self.stop()
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=initialize_worker, initargs=(self.threads,))
        return self.pool.submit(work, planned, settings)

    def stop(self) -> None:
        """End the process at once; what it had not saved is redone."""
        if self.pool is None:
            return
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        self.pool = None
