"""Modes of compiling: which is the fastest, and how those that are compare with each other.

The fastest mode is looked for first; what is compared is timed in turns afterwards, with nothing between that a device
which grows warm, or slows down, could change.
"""

import math
from dataclasses import dataclass, replace

import torch

from harness.running.worker_process import free_memory
from methods import MakeMethod
from tests.benchmarks.cells import Cell, harness_epoch
from tests.benchmarks.comparison import Epoch, Timing, in_turns

MODES = ("off", "default", "reduce-overhead")


@dataclass(frozen=True)
class Tried:
    """A kind of training that was tried in some modes.

    Attributes:
        cell: what is trained.
        make: by which method.
        found: the seconds of an epoch in each mode, or why it could not be trained.
    """

    cell: Cell
    make: MakeMethod
    found: dict[str, float | str]

    @property
    def seconds(self) -> float:
        """Those of the fastest mode; infinite if there is none."""
        return min((taken for taken in self.found.values() if isinstance(taken, float)), default=math.inf)

    @property
    def fastest(self) -> Cell:
        """The cell in its fastest mode.

        Raises:
            RuntimeError: if no mode could be trained; with the reasons.
        """
        for mode, taken in self.found.items():
            if taken == self.seconds:
                return replace(self.cell, compile=mode)
        raise RuntimeError(f"{self.cell.architecture}: no mode trains: {self.found}")

    def epoch(self) -> Epoch:
        """An epoch in the fastest mode."""
        return harness_epoch(self.fastest, self.make)


def try_modes(cell: Cell, make: MakeMethod, modes: tuple[str, ...], rounds: int = 3) -> Tried:
    """Time an epoch in each mode."""
    found: dict[str, float | str] = {}
    for mode in modes:
        try:
            found[mode] = time_mode(replace(cell, compile=mode), make, rounds)
        except Exception as error:  # shown in the row
            found[mode] = f"{type(error).__name__}: {error}"[:300]
        forget()
    return Tried(cell, make, found)


def time_mode(cell: Cell, make: MakeMethod, rounds: int) -> float:
    """Time an epoch, of which nothing is held on return, so that it can be forgotten."""
    return in_turns({cell.compile: harness_epoch(cell, make)}, cell.device, rounds).median(cell.compile)


def fastest_in_turns(kinds: dict[str, Tried], device: str, rounds: int) -> Timing:
    """Compare kinds of training, each in its fastest mode."""
    timing = in_turns({name: tried.epoch() for name, tried in kinds.items()}, device, rounds)
    forget()
    return timing


def forget() -> None:
    """Drop compiled programs, of which torch keeps a few a function, and the memory of what was timed."""
    torch.compiler.reset()
    free_memory()
