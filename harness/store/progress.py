"""What a run tells about itself while it is worked on, in its folder's progress.json."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness.store.run_folder import read_json, write_json

Stage = Literal["starting", "training", "preparing", "evaluating"]
"""Loading data and building the method; its epochs; what is done once before evaluation; evaluation."""


class ProgressFile:
    """Tells how far a run is, who works on it, and since when.

    The file holds "host", "pid" and "device"; the "stage" and when it "began"; how many of its "epochs" (or other
    "unit") are done, "epoch", and at which "pace", in seconds each, since training began or was resumed; and the "time"
    of writing. Times are in seconds since 1970.
    """

    def __init__(self, path: Path | None, device: str, unit: str = "epoch") -> None:
        """Tell that a run is started or resumed.

        Args:
            path: of progress.json; None for a rank that leaves the telling to another one.
            device: that computes.
            unit: what is counted.
        """
        self.path, self.before = path, 0
        earlier = read_json(path) if path else {}
        self.state: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "device": device, "unit": unit}
        self.state |= {name: earlier.get(name, 0) for name in ("epoch", "epochs")}
        self.enter_stage("starting")

    def begin_training(self, epoch: int, epochs: int) -> None:
        """Tell that training begins, or is resumed after some of its epochs."""
        self.before = epoch
        self.state |= {"epoch": epoch, "epochs": epochs}
        self.enter_stage("training")

    def complete_epoch(self, epoch: int, line: Mapping[str, Any] | None = None) -> None:
        """Tell that an epoch is done, and what was measured in it."""
        pace = (time.time() - self.state["began"]) / (epoch - self.before)
        self.write({**(line or {}), "epoch": epoch, "pace": pace})

    def enter_stage(self, stage: Stage) -> None:
        """Tell that a stage begins."""
        self.write({"stage": stage, "began": time.time()})

    def write(self, news: Mapping[str, Any]) -> None:
        """Write the file."""
        self.state |= {**news, "time": time.time()}
        if self.path:
            write_json(self.path, self.state, durable=False)
