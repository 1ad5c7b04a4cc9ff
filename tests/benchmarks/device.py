"""Measures the peak speed and memory of a device, describes it, and writes the file of results."""

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
from tests.benchmarks.timing import Epoch, Measurement, time_epoch

SIDES = {"cpu": 4096, "cuda": 8192}
"""Number of rows of the multiplied matrices, for each device."""
WARM_UP = 0.5
"""Seconds of work before timing, in which an idle device raises its clock."""


def matrix_peak(device: str, precision: str, side: int = 0) -> float:
    """Measure the peak speed of a device in a large matrix product, in floating-point operations a second.

    On a CPU, a large convolution is measured too, because a different and faster library computes it. On a GPU, float32
    means TF32, as in the convolutions of the harness.

    Args:
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        side: number of rows of the matrices; 0 for a size that keeps the device busy.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    n = side or SIDES[device]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    if device == "cpu":
        x = torch.randn(16, 512, n // 128, n // 128, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(512, 512, 3, 3, dtype=dtype)
        count = 2.0 * x.numel() * kernel[0].numel()  # as many output as input channels
        convolved = fastest(lambda: nn.functional.conv2d(x, kernel, padding=1), device, repeats=1, timings=5)
        return max(2.0 * n**3 / fastest(lambda: torch.mm(a, b), device, repeats=1, timings=5), count / convolved)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return 2.0 * n**3 / fastest(lambda: torch.mm(a, b), device, repeats=50)
    finally:
        torch.set_float32_matmul_precision(before)


def fastest(run: Epoch, device: str, repeats: int, timings: int = 10) -> float:
    """Return the seconds of one call, from the fastest of several timings of `repeats` calls each."""

    def calls() -> None:
        for _ in range(repeats):
            run()

    warm = 0.0
    while warm < WARM_UP:
        warm += time_epoch(calls, device)
    return min(time_epoch(calls, device) for _ in range(timings)) / repeats


def measure_peak_memory(build: Callable[[], Epoch], device: str) -> tuple[Epoch, int]:
    """Build an epoch, train it, and measure its peak memory.

    On a CPU, this is the growth of the process, which therefore must not have trained before. It includes pages of
    libraries that are read for the first time: tens of megabytes.

    Returns:
        The epoch, and its peak memory in bytes.
    """
    if device == "cuda":
        free_memory()
        before = torch.cuda.memory_allocated()
        epoch = build()
        epoch()  # cuDNN tries algorithms here, with memory that is not needed later
        torch.cuda.reset_peak_memory_stats()
        epoch()
        return epoch, torch.cuda.max_memory_allocated() - before
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epoch = build()
    epoch()
    return epoch, unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def device_name(device: str) -> str:
    """Return the name of the GPU or CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def describe_environment(device: str) -> dict[str, Any]:
    """Describe the device and the commit of a measurement."""
    described = {
        "name": device_name(device),
        "type": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return {"device": described, "commit": git_commit()}


def command() -> str:
    """Return the command line of this process."""
    spec = sys.modules["__main__"].__spec__
    return shlex.join(["python", "-m", spec.name if spec else sys.argv[0], *sys.argv[1:]])


def write_results(path: Path, device: str, results: dict[str, Any]) -> None:
    """Write results as JSON, with the device, the command and the commit."""

    def plain(value: object) -> dict[str, Any]:
        if isinstance(value, Measurement):
            return value.describe()
        raise TypeError(f"{value!r} has no form in JSON")

    made = {**describe_environment(device), "command": command(), **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, indent=1, default=plain) + "\n")
    print(f"\nwritten to {path}")
