"""Settings of the execution of runs: folders, devices and speed. They do not change what a run computes."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Fuse = Literal["auto", "always", "never"]
Compile = Literal["off", "default", "reduce-overhead"]


@dataclass(frozen=True)
class Settings:
    """How runs are executed. Two executions of a run with different settings have the same result up to rounding.

    Attributes:
        runs: the folder of run folders.
        downloads: the folder of datasets.
        device: "cpu", "cuda", "cuda:1" …
        checkpoint_seconds: the least seconds between two checkpoints of a run, which are further apart where saving one
            takes long (`CheckpointTimer`); 0 to save one every epoch.
        plugins: files of the user's own methods.
        decoders: processes that decode image files for a run; None for one per CPU, 0 to decode in the run's process.
        ranks: processes that train a run together, on the CPU or on the CUDA devices from `device` on.
        driver: the name of the driver for which the run is executed; claims show it.
        alone: whether no other run uses the device. Then a run that runs out of memory has failed for good.
        began: when the driver began, in seconds since 1970. A run that another driver failed since is not tried again.
        fuse: whether members that share most of their weights are run as one batch; "auto" if that is faster.
        compile: how torch compiles networks for training; "reduce-overhead" uses CUDA graphs.
        deterministic: whether a GPU computes the same bits at every repetition, which may be slower.
        system_metrics: seconds between two samples of system metrics; None to sample none.
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
    deterministic: bool = False
    system_metrics: float | None = None
