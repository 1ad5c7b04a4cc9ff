"""What a result was made with."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
COMMIT_VARIABLE = "ECON_COMMIT"


@cache
def git_commit() -> str:
    """Give git's name of the commit of this code; "unknown" outside a checkout of it, or without git.

    Code that a driver sent to another machine is named as the driver's, by $ECON_COMMIT.
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
    """Say what a result is made with, here and now."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
    }
