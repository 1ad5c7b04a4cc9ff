"""The progress file of a run, progress.json, which exists while a process works on the run."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness.store.damaged_files import progress_problem, read_checked
from harness.store.run_folder import write_json

Stage = Literal["starting", "training", "preparing", "evaluating"]
"""Stages of a run.

starting: load the data and build the method. training: the epochs. preparing: `Method.prepare`, once before
evaluation. evaluating: compute the metrics.
"""


class ProgressFile:
    """Writes how far a run is, and which process works on it.

    The file holds "host", "pid" and "device"; the current "stage" and the time it "began"; the total number of "epochs"
    and the number that are done, "epoch"; the "pace" in seconds an epoch since training began or was resumed; and the
    "time" of writing. The "unit" says what is counted if it is not epochs. Times are in seconds since 1970.
    """

    def __init__(self, path: Path | None, device: str, unit: str = "epoch") -> None:
        """Write that a run is started or resumed.

        Args:
            path: path of progress.json; None for a rank that writes no file, because rank 0 does.
            device: device that computes.
            unit: what is counted, such as "epoch".
        """
        self.path, self.before = path, 0
        earlier = read_checked(path, progress_problem) if path else {}
        self.state: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "device": device, "unit": unit}
        self.state |= {name: earlier.get(name, 0) for name in ("epoch", "epochs")}
        self.enter_stage("starting")

    def begin_training(self, epoch: int, epochs: int) -> None:
        """Write that training begins, or is resumed after some epochs."""
        self.before = epoch
        self.state |= {"epoch": epoch, "epochs": epochs}
        self.enter_stage("training")

    def complete_epoch(self, epoch: int, line: Mapping[str, Any] | None = None) -> None:
        """Write that an epoch is done, with the values measured in it."""
        pace = (time.time() - self.state["began"]) / (epoch - self.before)
        self.write({**(line or {}), "epoch": epoch, "pace": pace})

    def enter_stage(self, stage: Stage) -> None:
        """Write that a stage begins."""
        self.write({"stage": stage, "began": time.time()})

    def write(self, news: Mapping[str, Any]) -> None:
        """Update some values and write the file."""
        self.state |= {**news, "time": time.time()}
        if self.path:
            write_json(self.path, self.state, durable=False)
