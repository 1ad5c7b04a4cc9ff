"""Engines: execute runs in this process, in worker processes of this machine, or on a Ray cluster.

The command line chooses an engine. All engines execute the same planned runs and give the same results.
"""

from collections.abc import Sequence

from harness.engines.engine import Engine, EngineError, RunObserver, execute_planned
from harness.engines.inline import Inline
from harness.engines.processes import Processes
from harness.engines.ray import Ray
from harness.engines.ray_cluster import Cluster


def make_engine(name: str, workers: int, threads: int, devices: Sequence[str] = ()) -> Engine:
    """Make an engine that uses this machine only.

    Args:
        name: "inline" or "processes".
        workers: number of runs at once.
        threads: CPU threads of each run.
        devices: device of each worker. If empty, all workers use the device of the settings.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "inline":
        return Inline(threads)
    if name == "processes":
        return Processes(workers, threads, devices)
    raise ValueError(f"unknown engine {name!r}; there are inline, processes")


__all__ = [
    "Cluster",
    "Engine",
    "EngineError",
    "Inline",
    "Processes",
    "Ray",
    "RunObserver",
    "execute_planned",
    "make_engine",
]
