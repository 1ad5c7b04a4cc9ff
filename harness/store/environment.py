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
    """Return the commit, the versions of Python and torch, the device, and the numbers of threads and of CPUs."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "cpus": str(usable_cpus()),
    }
