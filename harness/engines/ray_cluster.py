"""Connects to a Ray cluster, or starts one on this machine that ends with the driver."""

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

SHIPPED_PACKAGES = (methods, models, data, harness)
"""The packages that are sent to the machines of a cluster."""

OBJECT_STORE_BYTES = 100 * 2**20
"""Size of Ray's object store on this machine. It is small because results pass through the run folders."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the resources that each run takes of it.

    Attributes:
        address: `HOST:PORT`; `auto` for the cluster of this machine; `ray://HOST:PORT` for a cluster that this machine
            does not belong to; None to start a cluster on this machine.
        cpus: CPUs of each run.
        gpus: GPUs of each run. Several runs share a GPU if it is below 1.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def local(self) -> bool:
        """Whether the driver starts the cluster on this machine, and ends it."""
        return self.address in (None, "local")

    def fits(self, resources: Mapping[str, float]) -> int:
        """Count the runs for which a machine has room at once.

        Args:
            resources: of the machine, by Ray's names "CPU" and "GPU".
        """
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        rooms = [count_shares(cpus, self.cpus)] if self.cpus else []
        if self.gpus:  # a run never takes parts of two GPUs
            rooms.append(int(gpus) * count_shares(1.0, self.gpus) if self.gpus < 1 else count_shares(gpus, self.gpus))
        return min(rooms, default=0)


def count_shares(whole: float, part: float) -> int:
    """Return how many whole parts fit, tolerant to rounding errors: 0.1 fits into 1 ten times."""
    return math.floor(whole / part + 1e-6)


ANSWER_SECONDS = 8.0
FRAME_HEAD, FRAME_TYPE, SETTINGS = 9, 3, 4
"""The bytes of the head of an HTTP/2 frame, the place of its type, and the type of a frame of settings."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
"""How a client begins an HTTP/2 connection: with a fixed text, and with its settings, here none."""
GUARD = """
cat >/dev/null
for each in "$@"; do
    start=$(sed 's/.*) //' "/proc/${each%:*}/stat" | cut -d ' ' -f 20)
    test "$start" = "${each#*:}" && kill -9 "${each%:*}"
done
"""
"""A shell script that waits for the end of its standard input, then kills the processes in its arguments.

An argument is PID:START, where START is the process's start time in `/proc/PID/stat`.
"""


def import_ray() -> Any:
    """Import Ray, which is an optional dependency.

    Raises:
        EngineError: if it is not installed. The message says how to install it.
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
    """Connect to a cluster, or start one. Yield the module `ray`.

    An existing connection of this process is used as it is, and left open.

    Args:
        cluster: which cluster.
        workers: number of runs at once on a cluster that is started here.

    Raises:
        EngineError: if Ray is not installed, or the cluster cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    guard = None
    try:
        if cluster.local:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # workers inherit it
            ray.init(
                address="local",
                num_cpus=math.ceil((workers or 1) * cluster.cpus),
                num_gpus=None if cluster.gpus else 0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
            guard = start_guard()
        else:
            check_reachable(cluster.address or "")
            ray.init(address=cluster.address, runtime_env=runtime_environment(), **common)
    except (ConnectionError, RuntimeError, ValueError, ImportError, OSError) as error:
        where = "of this machine" if cluster.local else cluster.address
        hint = "" if cluster.local else "; if it asks for a token, export RAY_AUTH_MODE=token here, too"
        raise EngineError(f"no connection to the Ray cluster {where}: {error}{hint}") from error
    try:
        silence_worker_reports(ray)
        yield ray
    finally:
        ray.shutdown()
        if guard:
            guard.kill()
            guard.wait()


def silence_worker_reports(ray: Any) -> None:
    """Keep Ray's reports of dead workers off the terminal. The driver itself reports what happens to their runs.

    Ray prints its reports regardless of `log_to_driver`. If a later release prints them in another way, they appear
    again.
    """
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def check_reachable(address: str) -> None:
    """Check that Ray may answer at an address. Ray itself would try for a minute and then end the process.

    Ray speaks gRPC, whose servers begin every connection with a frame of settings. Other programs do not.

    Raises:
        OSError: if nothing or another program answers there, or the address has no port.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":  # Ray finds the address, or raises at once
        return
    if not port.isdecimal():
        raise OSError("expected HOST:PORT, ray://HOST:PORT or auto")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        try:
            connection.sendall(GREETING)
            answer = connection.makefile("rb").read(FRAME_HEAD)
        except OSError:  # it waits, or hangs up
            answer = b""
    if len(answer) < FRAME_HEAD or answer[FRAME_TYPE] != SETTINGS:
        raise OSError("another program answers there; give the port at which `ray start --head` listens")


def runtime_environment() -> dict[str, Any]:
    """Return the Ray runtime environment that sends this project's code to the machines of a cluster.

    All machines use the driver's code, even if they have another version installed. A run's key does not contain the
    version, so an older copy on one machine would change results unnoticed. The dependencies of the code must be
    installed on every machine.
    """
    folders = [str(Path(module.__file__ or "").parent) for module in SHIPPED_PACKAGES]
    return {"py_modules": folders, "excludes": ["**/__pycache__"], "env_vars": {COMMIT_VARIABLE: git_commit()}}


def start_guard() -> "subprocess.Popen[bytes] | None":
    """Start a process that kills the local cluster's processes when the driver is killed.

    Most of them end by themselves at once, but two that Ray starts indirectly take a minute. The guard reads from a
    pipe to which the driver never writes, so reading ends when the driver does. It identifies processes by number and
    start time, because numbers are reused.

    Returns:
        The guard, or None on a system without `/proc`.
    """
    if not Path("/proc/self/stat").exists():
        return None
    processes = [f"{pid}:{process_start_ticks(pid)}" for pid in sorted(descendants(os.getpid()))]
    command = ["sh", "-c", GUARD, "guard", *processes]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def descendants(pid: int) -> set[int]:
    """Return the process numbers of all descendants of a process."""
    children: dict[int, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        children.setdefault(parent, set()).add(int(path.parent.name))
    found: set[int] = set()
    left = {pid}
    while left:
        new = children.get(left.pop(), set()) - found
        found |= new
        left |= new
    return found
