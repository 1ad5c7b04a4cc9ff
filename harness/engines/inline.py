"""One run after another in the driver's own process."""

import torch

from harness.engines.engine import Watch, work
from harness.execute import Settings
from harness.plan import Schedule


class Inline:
    """One run after another in this process."""

    def __init__(self, threads: int) -> None:
        """Compute with this many threads."""
        self.threads = threads

    def run(self, schedule: Schedule, settings: Settings, watch: Watch) -> None:
        """Execute until nothing is left."""
        torch.set_num_threads(self.threads)
        while key := schedule.take():
            planned = schedule.runs[key]
            watch.started(planned)
            outcome = work(planned, settings, watch.tick)
            schedule.end(key, outcome)
            watch.ended(planned, outcome)
