"""The Ray cluster that an engine uses: one that is there, or one on this machine that ends with the driver."""

import logging
import math
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
import harness
import methods
import models
from harness.engines.engine import EngineError
from harness.store.environment import COMMIT_VARIABLE, git_commit
from harness.store.process_identity import process_start_ticks

CODE = (methods, models, data, harness)
"""What a worker computes with."""

STORE = 100 * 2**20
"""Bytes of Ray's object store on this machine, where results come home through the run folders."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and what of it each run takes.

    Attributes:
        address: `HOST:PORT`, `auto` for the one that this machine belongs to, `ray://HOST:PORT` for one that it does
            not belong to, or None to start one here.
        cpus: CPUs a run.
        gpus: GPUs a run; several runs share a GPU if it is below 1.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def local(self) -> bool:
        """Whether it is started here, and ends with the driver."""
        return self.address in (None, "local")

    def fits(self, resources: Mapping[str, float]) -> int:
        """Count the runs that a machine has room for at once.

        Args:
            resources: what it has, by Ray's names "CPU" and "GPU".
        """
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        rooms = [share(cpus, self.cpus)] if self.cpus else []
        if self.gpus:  # a run never takes parts of two GPUs
            rooms.append(int(gpus) * share(1.0, self.gpus) if self.gpus < 1 else share(gpus, self.gpus))
        return min(rooms, default=0)


def share(whole: float, part: float) -> int:
    """Say how often a part goes into the whole; 0.1 goes into 1 ten times."""
    return math.floor(whole / part + 1e-6)


GUARD = """
cat >/dev/null
for each in "$@"; do
    start=$(sed 's/.*) //' "/proc/${each%:*}/stat" | cut -d ' ' -f 20)
    test "$start" = "${each#*:}" && kill -9 "${each%:*}"
done
"""


def import_ray() -> Any:
    """Import Ray, which is an extra.

    Raises:
        EngineError: if it is not installed; says how to.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            f"the engine ray needs Ray ({error}); in the project's folder: pip install -c constraints.txt '.[ray]'"
        ) from error
    return ray


@contextmanager
def connected(cluster: Cluster, workers: int | None) -> Iterator[Any]:
    """Connect to a cluster, or start one; give the module `ray`.

    A connection that the process has already is used as it is, and left open.

    Args:
        cluster: which one.
        workers: runs at once on one that is started here.

    Raises:
        EngineError: if there is no Ray, or no such cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    guard = None
    try:
        if cluster.local:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which is what the workers inherit
            ray.init(
                address="local",
                num_cpus=math.ceil((workers or 1) * cluster.cpus),
                num_gpus=None if cluster.gpus else 0,
                include_dashboard=False,
                object_store_memory=STORE,
                **common,
            )
            guard = start_guard()
        else:
            check_reachable(cluster.address or "")
            ray.init(address=cluster.address, runtime_env=shipped(), **common)
    except (ConnectionError, RuntimeError, ValueError, ImportError, OSError) as error:
        where = "of this machine" if cluster.local else cluster.address
        hint = "" if cluster.local else "; if it asks for a token, export RAY_AUTH_MODE=token here, too"
        raise EngineError(f"no connection to the Ray cluster {where}: {error}{hint}") from error
    try:
        quieten(ray)
        yield ray
    finally:
        ray.shutdown()
        if guard:
            guard.kill()
            guard.wait()


def quieten(ray: Any) -> None:
    """Keep Ray's accounts of dead workers off the terminal: the driver itself says what becomes of their runs.

    Ray prints them whatever `log_to_driver` says. Should a release of it do so in another way, they are seen again.
    """
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def check_reachable(address: str) -> None:
    """Refuse an address where nothing answers; Ray itself tries for a minute and then ends the process.

    Raises:
        OSError: if there is no connection, or the address has no port.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":  # which Ray finds out, and refuses at once if there is none
        return
    if not port.isdecimal():
        raise OSError("expected HOST:PORT, ray://HOST:PORT or auto")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def shipped() -> dict[str, Any]:
    """Give the runtime environment that brings this code to a cluster's machines.

    All of them compute with the driver's own code, also where another version is installed: a run's key does not
    name the version, so that an older copy on one machine would spoil results unseen. What the code depends on must
    be installed there.
    """
    folders = [str(Path(module.__file__ or "").parent) for module in CODE]
    return {"py_modules": folders, "excludes": ["**/__pycache__"], "env_vars": {COMMIT_VARIABLE: git_commit()}}


def start_guard() -> "subprocess.Popen[bytes] | None":
    """Start what ends the cluster's processes when the driver is killed.

    Most of them end by themselves at once, but two that Ray starts indirectly only after a minute. The guard reads
    from the driver, which never writes: reading ends with the driver. It knows processes by number and start, for
    numbers are used again.
    """
    if not Path("/proc/self/stat").exists():
        return None
    processes = [f"{pid}:{process_start_ticks(pid)}" for pid in sorted(descendants(os.getpid()))]
    command = ["sh", "-c", GUARD, "guard", *processes]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def descendants(pid: int) -> set[int]:
    """List the processes that a process started, and those that they did."""
    children: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        children.setdefault(parent, set()).add(int(path.parent.name))
    found: set[int] = set()
    left = {pid}
    while left:
        new = children.get(left.pop(), set()) - found
        found |= new
        left |= new
    return found
