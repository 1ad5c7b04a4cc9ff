"""Where and on what runs are executed, which changes nothing about what they compute."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Fuse = Literal["auto", "always", "never"]
Compile = Literal["off", "default", "reduce-overhead"]


@dataclass(frozen=True)
class Settings:
    """What may differ between two executions of the same run without changing what is computed.

    Attributes:
        runs: the folder of run folders.
        downloads: the folder of datasets.
        device: "cpu", "cuda", "cuda:1" …
        checkpoint_seconds: the least time between two checkpoints of a run; 0 for one every epoch.
        plugins: files of the user's own methods.
        decoders: processes that decode image files for a run; None for one a CPU, 0 for the run's own.
        ranks: processes that train a run together, on the CPU or on the CUDA devices from `device` on.
        driver: who the run is executed for, in words; claims name it.
        alone: no other run is on the device, so that one that runs out of memory has failed.
        began: when the driver began, in seconds since 1970: what another one has failed since is not tried again.
        fuse: whether members that share most of their weights are run as one batch: "auto" where that is faster.
        compile: how torch compiles networks for training, "reduce-overhead" into CUDA graphs.
        system_metrics: seconds between two samples of system metrics; None for none.
    """

    runs: Path = Path("runs")
    downloads: Path = Path("downloads")
    device: str = "cpu"
    checkpoint_seconds: float = 10.0
    plugins: tuple[Path, ...] = ()
    decoders: int | None = None
    ranks: int = 1
    driver: str = ""
    alone: bool = False
    began: float = math.inf
    fuse: Fuse = "auto"
    compile: Compile = "off"
    system_metrics: float | None = None
