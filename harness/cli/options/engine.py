"""The options of engines, and the engine and devices that they choose."""

import os
import warnings
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Refusal, finite

if TYPE_CHECKING:
    from harness.engines import Cluster, Engine

MOST_AT_ONCE = 1024
"""Largest number of threads of a run, and of runs at once: more would only fill the memory."""
Gpus = Annotated[
    str | None, typer.Option(help="GPUs to share out among processes, as 0,1,3. Default: all that are visible.")
]
PerGpu = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        help="Runs at once on each GPU. One that runs out of memory is tried again alone on its GPU. Default: 1.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        help="Runs at once on CPUs or a cluster. Default: as many as --threads leaves CPUs for, else one a CPU.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_AT_ONCE,
        help="CPU threads a run. Default: $OMP_NUM_THREADS, else the CPUs shared out: $SLURM_CPUS_PER_TASK of them, "
        "else as many as a container's quota allows, else all cores.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 … Default: cuda if there is one.")]

Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="The same bits at every repetition, on a GPU too, which may be slower there."),
]
CUDA_WARNING = "CUDA initialization: "
"""How the warnings of torch begin that say why there are no GPUs."""


class EngineName(StrEnum):
    """Where runs are executed."""

    inline = "inline"
    processes = "processes"
    ray = "ray"


@dataclass(frozen=True)
class EngineOptions:
    """The options of engines as the user gave them; None for an option that was not given."""

    engine: EngineName
    workers: int | None = None
    threads: int | None = None
    device: str | None = None
    gpus: str | None = None
    per_gpu: int | None = None
    ranks: int = 1
    ray_address: str | None = None
    cpus_per_run: float | None = None
    gpus_per_run: float | None = None


@dataclass(frozen=True)
class ChosenEngine:
    """The engine that the options choose.

    Attributes:
        engine: the engine.
        device: the device that runs compute on.
        cores: the number of CPU cores for each run.
    """

    engine: "Engine"
    device: str
    cores: int


def choose_engine(asked: EngineOptions) -> ChosenEngine:
    """Make the engine, with defaults for the options that were not given.

    Raises:
        Refusal: if options contradict each other, or ask for what is not there.
    """
    from data.files.usable_cpus import threads_asked_for, usable_cpus
    from harness.engines import Ray, make_engine

    try:
        cores, threads = usable_cpus().number, asked.threads or threads_asked_for()
    except ValueError as error:
        raise Refusal(str(error)) from error
    if asked.engine is EngineName.ray:
        if asked.gpus is not None or asked.per_gpu or asked.ranks > 1:
            raise Refusal(
                "--gpus, --per-gpu and --ranks are for one machine; a Ray cluster is shared by --gpus-per-run"
            )
        share = share_cluster(
            asked.ray_address, asked.cpus_per_run, asked.gpus_per_run, asked.workers, threads, asked.device, cores
        )
        return ChosenEngine(
            Ray(share.workers, share.threads, share.cluster), share.device, max(1, int(share.cluster.cpus))
        )
    if asked.ray_address and asked.ray_address != os.environ.get("RAY_ADDRESS"):
        raise Refusal(f"--ray-address {asked.ray_address}: add --engine ray")
    if asked.workers and asked.workers > 1 and asked.engine is EngineName.inline:
        raise Refusal(f"--workers {asked.workers}: the engine inline trains one run at a time; add --engine processes")
    if asked.cpus_per_run is not None or asked.gpus_per_run is not None:
        raise Refusal("--cpus-per-run and --gpus-per-run share a Ray cluster: add --engine ray")
    device = ("cuda" if count_gpus() else "cpu") if asked.device is None else asked.device
    room = max(1, cores // (threads or 1))
    devices = choose_devices(asked.engine, device, asked.workers, room, asked.gpus, asked.per_gpu)
    check_ranks(devices[0], asked.ranks, len(devices))
    share_of_cores = max(1, cores // len(devices))
    engine = make_engine(asked.engine.value, len(devices), threads or share_of_cores, devices)
    return ChosenEngine(engine, device, share_of_cores)


def choose_devices(
    engine: EngineName, device: str, workers: int | None, room: int, gpus: str | None, per_gpu: int | None
) -> list[str]:
    """Return the device of each process: `workers` or `room` processes on the CPU, `per_gpu` on each GPU."""
    import torch

    from harness.engines.device_slots import gpu_slots

    several = engine is EngineName.processes
    if not (several and device.startswith("cuda") and torch.cuda.is_available()):
        check_device(device)
        if gpus is not None or per_gpu:
            raise Refusal(f"--gpus and --per-gpu share out GPUs with --engine processes, not {device} {engine.value}")
        return [device] * (workers or room if several else 1)
    try:  # the driver itself needs no context on any of the GPUs, which costs memory
        devices = gpu_slots(device, gpus, per_gpu or 1, torch.cuda.device_count())
    except ValueError as error:
        raise Refusal(str(error)) from error
    if workers and workers != len(devices):
        raise Refusal(f"--workers {workers}: on GPUs --gpus and --per-gpu decide, here for {len(devices)} runs at once")
    return devices


@cache
def unusable_gpus() -> str:
    """Return why torch cannot use this machine's GPUs, such as a driver that is too old; "" if it can or has none."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.is_available()  # torch only warns, once a process, and says that there are no GPUs
    reasons = [str(warning.message) for warning in caught if str(warning.message).startswith(CUDA_WARNING)]
    return reasons[0].removeprefix(CUDA_WARNING).partition(" (Triggered internally")[0] if reasons else ""


def count_gpus() -> int:
    """Return the number of GPUs.

    Raises:
        Refusal: if there are GPUs that torch cannot use: training on the CPU instead is a choice of the user's.
    """
    import torch

    if reason := unusable_gpus():
        raise Refusal(f"this machine's GPUs cannot be used: {reason} To train on the CPU, add --device cpu")
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check_device(device: str) -> None:
    """Refuse a device that is not there, or of a kind that runs do not compute on."""
    import torch

    try:
        wanted = torch.device(device)
        if wanted.type != "cuda" or not count_gpus():
            torch.empty(1, device=device)  # its error says what is missing
    except (RuntimeError, AssertionError, ValueError) as error:
        raise Refusal(f"--device {device}: {str(error).splitlines()[0]}") from error
    if wanted.type not in ("cpu", "cuda"):
        raise Refusal(f"--device {device}: runs compute on cpu or cuda; nobody has tried {wanted.type}")
    if wanted.type == "cuda" and (wanted.index or 0) >= count_gpus():  # no context on a GPU, which would take memory
        raise Refusal(f"--device {device}: {count_gpus()} GPUs are visible, counted from 0")


def check_ranks(device: str, ranks: int, workers: int) -> None:
    """Refuse more ranks than there are GPUs from a device on, and runs that would use the same ones at once."""
    if ranks == 1 or not device.startswith("cuda"):
        return
    import torch

    from harness.running.distributed.ranks import rank_device

    last, gpus = rank_device(device, ranks - 1), torch.cuda.device_count()
    if int(last.partition(":")[2]) >= gpus:
        raise Refusal(f"--ranks {ranks}: each has a GPU of its own, the last one {last}, but there are {gpus}")
    if workers > 1:
        raise Refusal(f"--ranks {ranks}: {workers} runs at once would use the same GPUs; take --engine inline")


Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="A Ray cluster: HOST:PORT, auto (this machine's), ray://HOST:PORT. Default: one on this machine alone.",
    ),
]


CpusPerRun = Annotated[
    float | None, typer.Option(min=0.1, callback=finite, help="With --engine ray: CPUs a run. Default: its threads.")
]


GpusPerRun = Annotated[
    float | None,
    typer.Option(
        min=0,
        callback=finite,
        help="With --engine ray: GPUs a run; 0.25 lets four share one. Default: 1 on cuda, else 0.",
    ),
]


@dataclass(frozen=True)
class ClusterShare:
    """How the runs of a study share a Ray cluster.

    Attributes:
        cluster: the cluster, with the CPUs and GPUs of each run.
        workers: the number of runs at once; None for as many as there is room for.
        threads: the number of CPU threads of each run.
        device: "cpu" or "cuda".
    """

    cluster: "Cluster"
    workers: int | None
    threads: int
    device: str


def share_cluster(
    address: str | None,
    cpus: float | None,
    gpus: float | None,
    workers: int | None,
    threads: int | None,
    device: str | None,
    cores: int,
) -> ClusterShare:
    """Choose how runs share a Ray cluster, with defaults for what is None.

    Args:
        address: the address of the cluster; None for one on this machine.
        cpus: the CPUs of each run.
        gpus: the GPUs of each run.
        workers: the number of runs at once.
        threads: the number of CPU threads of each run.
        device: the device that runs compute on.
        cores: the number of cores of this machine.

    Raises:
        Refusal: if options contradict each other.
    """
    import torch

    from harness.engines import Cluster

    here = torch.cuda.device_count()
    if device is None and gpus is None and Cluster(address).local:
        here = count_gpus()
    if not here and device is None and gpus is None and not Cluster(address).local:
        raise Refusal("the cluster's GPUs are not seen from here: add --gpus-per-run 1 (or 0.25, …), or --device cpu")
    device = device or ("cuda" if (here if gpus is None else gpus) else "cpu")
    if device.startswith("cuda:"):
        raise Refusal(f"--device {device}: Ray chooses the GPU of each run; write --device cuda")
    gpus = float(device == "cuda") if gpus is None else gpus
    if (device == "cuda") != (gpus > 0):
        raise Refusal(f"--device {device} and --gpus-per-run {gpus:g}: cuda takes GPUs, nothing else does")
    if gpus > 1:
        raise Refusal(f"--gpus-per-run {gpus:g}: a run computes on one GPU, or shares one")
    found = Cluster(address, cpus or threads or 1.0, gpus)
    if found.local:
        if gpus and here < gpus:
            raise Refusal(f"--gpus-per-run {gpus:g}: this machine has {here}; --ray-address names another cluster")
        workers = workers or (Cluster(address, 0.0, gpus).fits({"GPU": here}) if gpus else cores)
        found = Cluster(address, cpus or threads or max(1, cores // workers), gpus)
    return ClusterShare(found, workers, threads or max(1, int(found.cpus)), device)
