"""How many CPUs this process may use: those it is bound to, or fewer by SLURM or by a container's quota."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
QUOTA_FILES = {"": ("cpu.max",), "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}
"""The files that hold a quota and its period, by the name of the cgroup controller; version 2 has no name."""


class UsableCpus(NamedTuple):
    """A number of CPUs, and what limits it.

    Attributes:
        number: the number, at least 1.
        limit: what limits it, for people: "cores", "SLURM_CPUS_PER_TASK" or "the container's CPU quota".
    """

    number: int
    limit: str

    def __str__(self) -> str:
        """Return the number with its reason."""
        return f"{self.number} ({self.limit})"


def usable_cpus(environment: Mapping[str, str] = os.environ, root: Path = ROOT) -> UsableCpus:
    """Return the number of CPUs that this process may use.

    Args:
        environment: environment variables. $SLURM_CPUS_PER_TASK comes before a container's quota.
        root: the folder in which the system's own files lie.

    Raises:
        ValueError: if $SLURM_CPUS_PER_TASK is no number.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if slurm := read_count("SLURM_CPUS_PER_TASK", environment):
        limit = slurm, "SLURM_CPUS_PER_TASK"
    elif quota := cpu_quota(root):
        limit = max(1, int(quota)), "the container's CPU quota"
    else:
        limit = cores, "cores"
    return UsableCpus(*limit) if limit[0] < cores else UsableCpus(cores, "cores")


def threads_asked_for(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of threads that $OMP_NUM_THREADS asks for; None if it asks for none.

    Raises:
        ValueError: if it is no number.
    """
    return read_count("OMP_NUM_THREADS", environment)


def read_count(name: str, environment: Mapping[str, str]) -> int | None:
    """Return the number in an environment variable; None if it is not set. Of a list ("4,2") the first one counts.

    Raises:
        ValueError: if it is no number of at least 1.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    first = text.split(",")[0].strip()
    if not (first.isascii() and first.isdigit() and len(first) < 6 and int(first)):
        raise ValueError(f"${name} is {text!r}: it must be a number from 1 on; correct it, or unset it")
    return int(first)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the CPUs that a container's quota allows, by cgroups of version 1 or 2; None if there is no quota."""
    found = [quota for folder, names in cgroup_folders(root) if (quota := read_quota(folder, names)) is not None]
    return min(found, default=None)


def cgroup_folders(root: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the folders of this process's cgroup and of those around it, with the files that hold a quota there."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        for name in {"", "cpu"} & set(controllers.split(",")):
            top = root / "sys/fs/cgroup" / controllers
            inside = Path(path.lstrip("/"))
            # Inside a container, the path may be that outside, which is not there; the quota is then at the top.
            for part in (inside, *inside.parents):
                yield top / part, QUOTA_FILES[name]


def read_quota(folder: Path, names: tuple[str, ...]) -> float | None:
    """Return the CPUs that a cgroup may use; None if it has no quota."""
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return None
