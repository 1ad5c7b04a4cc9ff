"""Several runs at once on one machine, each in a worker process that takes one run after another."""

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for

import torch

from harness.engines.engine import Watch, work
from harness.execute import Outcome, Settings, fail
from harness.folder import RunFolder
from harness.plan import Schedule

TRIES = 3
"""How often a run may lose its worker process before it counts as failed."""


class Processes:
    """Several runs at once, each in a process of its own that takes one run after another."""

    def __init__(self, workers: int, threads: int) -> None:
        """Use this many processes with this many threads each."""
        self.workers, self.threads = workers, threads

    def run(self, schedule: Schedule, settings: Settings, watch: Watch) -> None:
        """Execute until nothing is left; a run whose process died goes on from its checkpoint."""
        lost: Counter[str] = Counter()
        while schedule.waiting or schedule.running:
            pool = self.pool()
            futures: dict[Future[Outcome], str] = {}
            try:
                self.feed(pool, futures, schedule, settings, watch, lost)
            except BrokenProcessPool:
                for key in list(schedule.running):
                    lost[key] += 1
                    if lost[key] < TRIES:
                        schedule.again(key)
                        continue
                    reason = f"its worker process died {TRIES} times (killed, or out of memory)"
                    outcome = fail(RunFolder(settings.runs, key), Outcome("failed", reason))
                    schedule.end(key, outcome)
                    watch.ended(schedule.runs[key], outcome)
            finally:
                stop(pool)

    def pool(self) -> ProcessPoolExecutor:
        """Make the worker processes."""
        # Freed memory is kept for the next step: giving it back to the system each time is slow.
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**32))
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, context, initializer=begin_worker, initargs=(self.threads,))

    def feed(
        self,
        pool: ProcessPoolExecutor,
        futures: dict[Future[Outcome], str],
        schedule: Schedule,
        settings: Settings,
        watch: Watch,
        lost: Mapping[str, int],
    ) -> None:
        """Keep every worker busy until nothing is left."""
        while True:
            # When a worker dies, all that ran are suspects: they come first, one at a time, so that the guilty one
            # does not use up the tries of the others.
            alone = any(key in lost for key in [*schedule.running, *schedule.waiting])
            while len(futures) < (1 if alone else self.workers) and (key := schedule.take()):
                planned = schedule.runs[key]
                futures[pool.submit(work, planned, settings)] = key
                watch.started(planned)
            if not futures:
                return
            done, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                key = futures.pop(future)
                schedule.end(key, outcome)
                watch.ended(schedule.runs[key], outcome)
            watch.tick()


def begin_worker(threads: int) -> None:
    """Set up a worker process: it leaves Ctrl-C to the driver, and ends when the driver does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the driver's end, however it comes, and end too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def stop(pool: ProcessPoolExecutor) -> None:
    """End the worker processes at once; what they had not saved is redone."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
