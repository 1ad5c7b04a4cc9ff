"""What the command line knows of a Ray cluster: its options, and what they mean together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli_options import Refusal

if TYPE_CHECKING:
    from harness.engines import Cluster

Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="A Ray cluster: HOST:PORT, auto (this machine's), ray://HOST:PORT. Default: one on this machine alone.",
    ),
]
CpusPerRun = Annotated[float | None, typer.Option(min=0.1, help="With --engine ray: CPUs a run. Default: its threads.")]
GpusPerRun = Annotated[
    float | None,
    typer.Option(min=0, help="With --engine ray: GPUs a run; 0.25 lets four share one. Default: 1 on cuda, else 0."),
]


@dataclass(frozen=True)
class Share:
    """What a run gets of a cluster.

    Attributes:
        cluster: which one, and CPUs and GPUs a run.
        workers: runs at once; None for as many as there is room for.
        threads: CPU threads a run.
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
) -> Share:
    """Fill in what the user left open.

    Args:
        address: of the cluster, None for one on this machine.
        cpus: CPUs a run.
        gpus: GPUs a run.
        workers: runs at once.
        threads: CPU threads a run.
        device: what to compute on.
        cores: of this machine.

    Raises:
        Refusal: if options contradict each other.
    """
    import torch

    from harness.engines import Cluster

    here = torch.cuda.device_count()
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
    return Share(found, workers, threads or max(1, int(found.cpus)), device)
