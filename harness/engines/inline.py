"""One run after another in the driver's own process."""

from dataclasses import replace

import torch

from harness.engines.engine import Watch, end, look, rest, work
from harness.planning.planned_runs import Planned
from harness.planning.schedule import Schedule
from harness.running.run_data import load_task
from harness.running.settings import Settings
from harness.running.worker_process import free_memory, keep_freed_memory
from harness.store.outcome import Outcome


class Inline:
    """One run after another in this process."""

    def __init__(self, threads: int) -> None:
        """Compute with this many threads."""
        self.threads = threads

    def run(self, schedule: Schedule, settings: Settings, watch: Watch) -> None:
        """Execute until nothing is left; what another driver works on is waited for last."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        while schedule.left:
            key = schedule.take()
            if key is None:
                rest(schedule, settings, watch)
                continue
            watch.started(schedule.runs[key])
            end(schedule, watch, key, self.work(schedule.runs[key], settings, watch))
            look(schedule, settings, watch)

    def work(self, planned: Planned, settings: Settings, watch: Watch) -> Outcome:
        """Execute a run; one that runs out of memory is tried again without what earlier runs left there."""
        outcome = work(planned, settings, watch.tick)
        if outcome.state != "out of memory":
            return outcome
        load_task.cache_clear()
        free_memory()
        return work(planned, replace(settings, alone=True), watch.tick)
