"""Engines: where runs are executed. One grid, one definition of a run, several ways to spread it."""

from harness.engines.engine import Engine, Watch, work
from harness.engines.inline import Inline
from harness.engines.processes import Processes


def make_engine(name: str, workers: int, threads: int) -> Engine:
    """Make an engine by its name.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "inline":
        return Inline(threads)
    if name == "processes":
        return Processes(workers, threads)
    raise ValueError(f"unknown engine {name!r}; there are inline, processes")


__all__ = ["Engine", "Inline", "Processes", "Watch", "make_engine", "work"]
