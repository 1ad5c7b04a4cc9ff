"""Engines: where runs are executed. One grid, one definition of a run, several ways to spread it."""

from collections.abc import Sequence

from harness.engines.engine import Engine, EngineError, Watch, work
from harness.engines.inline import Inline
from harness.engines.processes import Processes
from harness.engines.ray import Ray
from harness.engines.ray_cluster import Cluster


def make_engine(name: str, workers: int, threads: int, devices: Sequence[str] = ()) -> Engine:
    """Make an engine of this machine by its name.

    Args:
        name: "inline" or "processes".
        workers: runs at once.
        threads: of each run.
        devices: of each worker; all on the device of the settings if there are none.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "inline":
        return Inline(threads)
    if name == "processes":
        return Processes(workers, threads, devices)
    raise ValueError(f"unknown engine {name!r}; there are inline, processes")


__all__ = ["Cluster", "Engine", "EngineError", "Inline", "Processes", "Ray", "Watch", "make_engine", "work"]
