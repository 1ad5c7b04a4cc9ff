"""Finds the fastest mode of torch.compile for a kind of training, and compares kinds in their fastest modes.

The fastest modes are found first. The comparison then times the kinds in turns, so that a device that warms up or slows
down affects all of them.
"""

import math
from dataclasses import dataclass, replace

import torch

from harness.running.worker_process import free_memory
from methods import MakeMethod
from tests.benchmarks.epochs import TrainingSetup, harness_epoch
from tests.benchmarks.timing import Epoch, Timing, time_in_turns

MODES = ("off", "default", "reduce-overhead")


@dataclass(frozen=True)
class ModeTimes:
    """The durations of a kind of training in several modes of torch.compile.

    Attributes:
        setup: what is trained.
        make: the constructor of the method.
        found: mode → seconds of an epoch, or the error of a mode that cannot be trained.
    """

    setup: TrainingSetup
    make: MakeMethod
    found: dict[str, float | str]

    @property
    def seconds(self) -> float:
        """The seconds of an epoch in the fastest mode; infinite if no mode can be trained."""
        return min((taken for taken in self.found.values() if isinstance(taken, float)), default=math.inf)

    @property
    def fastest(self) -> TrainingSetup:
        """The setup in its fastest mode.

        Raises:
            RuntimeError: if no mode can be trained. The message has the errors.
        """
        for mode, taken in self.found.items():
            if taken == self.seconds:
                return replace(self.setup, compile=mode)
        raise RuntimeError(f"{self.setup.architecture}: no mode trains: {self.found}")

    def epoch(self) -> Epoch:
        """Return an epoch in the fastest mode."""
        return harness_epoch(self.fastest, self.make)


def time_modes(setup: TrainingSetup, make: MakeMethod, modes: tuple[str, ...], rounds: int = 3) -> ModeTimes:
    """Time an epoch in each mode of torch.compile."""
    found: dict[str, float | str] = {}
    for mode in modes:
        try:
            found[mode] = time_mode(replace(setup, compile=mode), make, rounds)
        except Exception as error:  # the row shows it
            found[mode] = f"{type(error).__name__}: {error}"[:300]
        free_compiled()
    return ModeTimes(setup, make, found)


def time_mode(setup: TrainingSetup, make: MakeMethod, rounds: int) -> float:
    """Time an epoch in one mode. Nothing keeps it alive afterwards, so its memory can be freed."""
    return time_in_turns({setup.compile: harness_epoch(setup, make)}, setup.device, rounds).median(setup.compile)


def time_fastest_in_turns(kinds: dict[str, ModeTimes], device: str, rounds: int) -> Timing:
    """Time kinds of training in turns, each in its fastest mode."""
    timing = time_in_turns({name: tried.epoch() for name, tried in kinds.items()}, device, rounds)
    free_compiled()
    return timing


def free_compiled() -> None:
    """Free compiled programs, of which torch keeps a few for each function, and the memory of ended timings."""
    torch.compiler.reset()
    free_memory()
