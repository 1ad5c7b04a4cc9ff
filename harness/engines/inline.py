"""The engine that executes one run after another, on the CPU in the driver's own process."""

from dataclasses import replace

import torch

from harness.engines.engine import (
    RunObserver,
    execute_planned,
    record_end,
    record_ends_elsewhere,
    wait_for_other_drivers,
)
from harness.engines.processes import Processes
from harness.planning.planned_runs import Planned
from harness.planning.schedule import Schedule
from harness.running.run_data import load_cached_task
from harness.running.settings import Settings
from harness.running.worker_process import free_memory, keep_freed_memory
from harness.store.outcome import Outcome


class Inline:
    """Executes one run after another, on the CPU in this process."""

    def __init__(self, threads: int) -> None:
        """Configure the number of CPU threads."""
        self.threads = threads

    def run(self, schedule: Schedule, settings: Settings, observer: RunObserver) -> None:
        """Execute runs until the schedule has none left. Wait for runs of other drivers last.

        On a GPU, runs are executed in one process beside this one, because some errors leave a process that cannot use
        its GPU any more: it is replaced then.
        """
        if torch.device(settings.device).type == "cuda":
            Processes(1, self.threads, [settings.device]).run(schedule, settings, observer)
            return
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        while schedule.left:
            key = schedule.take()
            if key is None:
                wait_for_other_drivers(schedule, settings, observer)
                continue
            observer.started(schedule.runs[key])
            outcome = self.execute_with_memory_retry(schedule.runs[key], settings, observer)
            record_end(schedule, observer, key, outcome)
            record_ends_elsewhere(schedule, settings, observer)

    def execute_with_memory_retry(self, planned: Planned, settings: Settings, observer: RunObserver) -> Outcome:
        """Execute a run. If it runs out of memory, free the memory of earlier runs and retry it once."""
        outcome = execute_planned(planned, settings, observer.tick)
        if outcome.state != "out of memory":
            return outcome
        load_cached_task.cache_clear()
        free_memory()
        return execute_planned(planned, replace(settings, alone=True), observer.tick)
