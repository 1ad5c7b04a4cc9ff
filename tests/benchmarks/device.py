"""What is measured on: its peak, its memory, its name; and the file of what was measured."""

import json
import platform
import resource
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.running.worker_process import free_memory
from harness.store.environment import git_commit
from tests.benchmarks.comparison import Epoch, Measured, seconds

SIDES = {"cpu": 4096, "cuda": 8192}
"""Rows of the matrices whose product is timed."""
WARM_UP = 0.5
"""Seconds of work before anything is timed, for which an idle device raises its clock."""


def matrix_peak(device: str, precision: str, side: int = 0) -> float:
    """Measure the most floating-point operations a second that the device does in a large product of matrices.

    On a CPU also in a large convolution, which another library computes there, and a faster one. On a GPU, float32
    means TF32, as it does for the convolutions of the harness there.

    Args:
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        side: rows of the matrices; 0 for what keeps the device busy.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    n = side or SIDES[device]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    if device == "cpu":
        x = torch.randn(16, 512, n // 128, n // 128, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(512, 512, 3, 3, dtype=dtype)
        count = 2.0 * x.numel() * kernel[0].numel()  # as many channels come out as go in
        convolved = fastest(lambda: nn.functional.conv2d(x, kernel, padding=1), device, repeats=1, timings=5)
        return max(2.0 * n**3 / fastest(lambda: torch.mm(a, b), device, repeats=1, timings=5), count / convolved)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return 2.0 * n**3 / fastest(lambda: torch.mm(a, b), device, repeats=50)
    finally:
        torch.set_float32_matmul_precision(before)


def fastest(run: Epoch, device: str, repeats: int, timings: int = 10) -> float:
    """Give the seconds of one call, in the fastest of some timings of so many calls each."""

    def calls() -> None:
        for _ in range(repeats):
            run()

    warm = 0.0
    while warm < WARM_UP:
        warm += seconds(calls, device)
    return min(seconds(calls, device) for _ in range(timings)) / repeats


def with_peak_memory(build: Callable[[], Epoch], device: str) -> tuple[Epoch, int]:
    """Build what trains, let it train, and give the most bytes that it held.

    On a CPU this is what the process grew by, so that it must not have trained before. Pages of libraries that are read
    for the first time are part of it: tens of megabytes.
    """
    if device == "cuda":
        free_memory()
        before = torch.cuda.memory_allocated()
        epoch = build()
        epoch()  # cuDNN tries algorithms here, in memory that is not needed later
        torch.cuda.reset_peak_memory_stats()
        epoch()
        return epoch, torch.cuda.max_memory_allocated() - before
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epoch = build()
    epoch()
    return epoch, unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def device_name(device: str) -> str:
    """Name what was measured on."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def where(device: str) -> dict[str, Any]:
    """Say where is measured, and from which commit."""
    described = {
        "name": device_name(device),
        "type": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return {"device": described, "commit": git_commit()}


def command() -> str:
    """Write the command that was given."""
    spec = sys.modules["__main__"].__spec__
    return shlex.join(["python", "-m", spec.name if spec else sys.argv[0], *sys.argv[1:]])


def write_results(path: Path, device: str, results: dict[str, Any]) -> None:
    """Write what was measured as JSON, with where, by which command and from which commit."""

    def plain(value: object) -> dict[str, Any]:
        if isinstance(value, Measured):
            return value.describe()
        raise TypeError(f"{value!r} has no form in JSON")

    made = {**where(device), "command": command(), **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1, default=plain) + "\n")
    print(f"\nwritten to {path}")
