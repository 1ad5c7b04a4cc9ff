"""The software and hardware environment that a result was computed in."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

from data.files.usable_cpus import usable_cpus

ROOT = Path(__file__).parents[2]
COMMIT_VARIABLE = "ECON_COMMIT"
FIRST_WITH_TF32 = (8, 0)
"""The compute capability of the first GPUs that have TF32 (Ampere)."""


@cache
def git_commit() -> str:
    """Return the git description of this code's commit; "unknown" outside a git checkout or without git.

    On a remote worker, $ECON_COMMIT holds the commit of the driver that sent the code.
    """
    if not (ROOT / ".git").exists():
        return os.environ.get(COMMIT_VARIABLE, "unknown")
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def describe_environment(device: torch.device) -> dict[str, str]:
    """Return the commit, the versions of Python and torch, the device, and what decides the last bits on it.

    "deterministic" says whether a repetition has the same bits, which it has on a CPU in any case. "tf32" says which
    float32 arithmetic is rounded to the 10 bits of TF32: "none", "convolutions", "matrix products", or both.
    """
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else platform.machine()
    cudnn = torch.backends.cudnn.version() if cuda else None  # type: ignore[no-untyped-call]
    return {
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "cpus": str(usable_cpus()),
        **({"cuda": str(torch.version.cuda), "cudnn": str(cudnn)} if cuda else {}),
        "tf32": describe_tf32(device),
        "deterministic": "yes" if not cuda or torch.are_deterministic_algorithms_enabled() else "no",
    }


def describe_tf32(device: torch.device) -> str:
    """Return which float32 arithmetic a device does in TF32, in words."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FIRST_WITH_TF32:
        return "none"
    allowed = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
    }
    return " and ".join(what for what, is_allowed in allowed.items() if is_allowed) or "none"
