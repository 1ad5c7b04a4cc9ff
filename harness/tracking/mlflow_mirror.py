"""The mirror of run folders in MLflow. A store that is unavailable never stops training: runs are sent again later.

The run folders are the truth. Whatever MLflow lacks can be sent again from them.
"""

import time
from collections.abc import Callable
from pathlib import Path

from harness.planning.planned_runs import Planned
from harness.store.run_folder import RunFolder
from harness.tracking.mlflow_experiment import MlflowExperiment
from harness.tracking.mlflow_store import TrackingError

RETRY_SECONDS = 60.0
"""Seconds until an unavailable tracking store is tried again."""
LIVE_SECONDS = 5.0
"""The least seconds between two updates of a running run."""
OTHER_DRIVERS_SECONDS = 15.0
"""Seconds that `close` gives other drivers to send the runs they trained. Then this driver sends them."""


class Mirror(MlflowExperiment):
    """Sends run folders to the MLflow experiment of a study, and remembers what the store did not accept.

    Attributes:
        problem: what is wrong with the store; "" if nothing is known to be wrong.
        unsent: keys of the runs that the store lacks, or has in an older state.
        retry_at: when an unavailable store is tried again, on the monotonic clock.
        last_sent: when each run was last sent, on the same clock, by key.
        left_to_others: runs that another driver trained and should send, by key.
    """

    def __init__(self, store: str, study: str, runs: Path, banner: str = "") -> None:
        """Name the store; it is opened by `open` or at the first `send`.

        Args:
            store: MLflow's tracking URI.
            study: the experiment's name.
            runs: the folder of run folders.
            banner: a warning that must be shown wherever the runs' numbers are, a tag of each run; "" for none.
        """
        super().__init__(store, study, runs, banner)
        self.problem = ""
        self.unsent: set[str] = set()
        self.retry_at = 0.0
        self.last_sent: dict[str, float] = {}
        self.left_to_others: dict[str, Planned] = {}

    def open(self) -> None:
        """Create the store and the experiment, if needed; note in `problem` if the store is unavailable."""
        self.use_store(self.connect)

    def send(self, planned: Planned, *, live: bool = False) -> None:
        """Send what is new in a run's folder; note the run in `unsent` if the store does not accept it.

        Args:
            planned: the run.
            live: whether it is still running; then it is sent at most every `LIVE_SECONDS`.
        """
        key = planned.key
        if live and time.monotonic() - self.last_sent.get(key, 0.0) < LIVE_SECONDS:
            return
        self.last_sent[key] = time.monotonic()
        self.use_store(lambda: self.update(planned), key)

    def leave_to_other_driver(self, planned: Planned) -> None:
        """Leave the sending of a run to the driver that trained it; `close` sends it if that driver did not."""
        self.left_to_others[planned.key] = planned

    def close(self) -> None:
        """Wait a little for other drivers to send the runs that were left to them, then send the missing ones."""
        deadline = time.monotonic() + OTHER_DRIVERS_SECONDS
        while self.left_to_others:
            self.use_store(self.refresh_known_runs)
            for key in [key for key, planned in self.left_to_others.items() if self.is_up_to_date(planned)]:
                del self.left_to_others[key]
            if not self.left_to_others or self.problem or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        for planned in self.left_to_others.values():
            self.send(planned)
        self.left_to_others.clear()

    def is_up_to_date(self, planned: Planned) -> bool:
        """Return whether the store has the final state of a run, as far as this process has read the store."""
        folder = RunFolder(self.runs, planned.key)
        state = "finished" if folder.finished else folder.read_failure().get("state")
        return planned.key in self.known and self.known[planned.key][1].get("state") == state

    def use_store(self, action: Callable[[], None], key: str = "") -> None:
        """Call a function that uses the store, unless the store was unavailable a short time ago.

        Args:
            action: the function; its `TrackingError` is noted in `problem`.
            key: of the run that it sends, which is added to `unsent` or removed from it; "" if it sends none.
        """
        if time.monotonic() >= self.retry_at:
            try:
                if self.client is None and action != self.connect:
                    self.connect()
                action()
            except TrackingError as error:
                self.problem = str(error)
                if error.unavailable or self.client is None:
                    self.retry_at = time.monotonic() + RETRY_SECONDS
            else:
                self.unsent.discard(key)
                if not self.unsent:
                    self.problem = ""
                return
        if key:
            self.unsent.add(key)
