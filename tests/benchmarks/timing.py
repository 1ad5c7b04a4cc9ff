"""Times several kinds of epochs in turns, and compares medians with bounds.

A round has one epoch of each kind. Ratios are taken within rounds, because other load on the machine slows all kinds.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Epoch = Callable[[], object]
EXTRA_MEASUREMENTS = 2
"""How many further measurements are made if a bound does not hold."""


@dataclass(frozen=True)
class Timing:
    """The durations of several kinds of epochs.

    Attributes:
        seconds: kind → seconds of one epoch in each round.
        memory: peak memory of one kind, in bytes; 0 if it was not measured.
    """

    seconds: dict[str, list[float]]
    memory: int = 0

    def __add__(self, other: "Timing") -> "Timing":
        """Combine the rounds of two measurements of the same kinds."""
        pooled = {name: taken + other.seconds[name] for name, taken in self.seconds.items()}
        return Timing(pooled, max(self.memory, other.memory))

    def median(self, name: str) -> float:
        """Return the median duration of a kind, in seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, one: str, other: str) -> list[float]:
        """Return the ratio of the durations of two kinds, for each round."""
        return [a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]


@dataclass(frozen=True)
class Measurement:
    """The median of a figure over rounds, with its bound.

    Attributes:
        value: the median.
        quartiles: the lower and the upper quartile, interpolated if there are few rounds.
        rounds: number of rounds.
        bound: the maximum allowed value, or the minimum if `at_least`; None for no bound.
        at_least: whether the bound is a minimum.
    """

    value: float
    quartiles: tuple[float, float]
    rounds: int
    bound: float | None = None
    at_least: bool = False

    @classmethod
    def of(cls, values: Sequence[float], bound: float | None = None, *, at_least: bool = False) -> "Measurement":
        """Summarize the values of rounds."""
        if len(values) == 1:
            return cls(values[0], (values[0], values[0]), 1, bound, at_least)
        lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, (lower, upper), len(values), bound, at_least)

    @property
    def kept(self) -> bool | None:
        """Whether the median is within the bound; None if there is no bound."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def describe(self) -> dict[str, Any]:
        """Return the measurement for a JSON file."""
        return {
            "value": self.value,
            "quartiles": list(self.quartiles),
            "rounds": self.rounds,
            "bound": self.bound,
            "at_least": self.at_least,
            "kept": self.kept,
        }

    def __str__(self) -> str:
        """Return the median, the quartiles and the bound, for a line of a table."""
        digits, of_bound = (3, 2) if abs(self.value) < 100 else (0, 0)
        value, lower, upper = (f"{each:,.{digits}f}" for each in (self.value, *self.quartiles))
        said = f"{value} [{lower}, {upper}]"
        if self.bound is not None:
            said += f" {'>=' if self.at_least else '<='} {self.bound:,.{of_bound}f}"
        return said + (" NOT KEPT" if self.kept is False else "")


@dataclass
class BoundChecker:
    """Collects the figures that violate their bounds.

    Attributes:
        violations: these figures.
    """

    violations: list[str] = field(default_factory=list)

    def __call__(self, what: str, measured: Measurement) -> str:
        """Return a figure with its bound, and record whether it violates the bound."""
        if measured.kept is False:
            self.violations.append(f"{what}: {measured}")
        return str(measured)

    def exit_if_violated(self) -> None:
        """Exit with an error if a bound was violated."""
        if self.violations:
            print("not kept: " + "; ".join(self.violations))
            sys.exit(1)


def time_epoch(epoch: Epoch, device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that an epoch takes, until the device has finished."""
    start = clock()
    epoch()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def time_in_turns(
    epochs: dict[str, Epoch],
    device: str,
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    lasting: float = 0.0,
) -> Timing:
    """Time several kinds of epochs in turns. Every other round has them in reverse order.

    Args:
        epochs: the epoch of each kind, by name.
        device: "cpu" or "cuda".
        rounds: minimum number of rounds.
        warm_up: number of epochs of each kind before the first round.
        clock: returns seconds.
        lasting: further rounds begin until this many seconds have passed.
    """
    for _ in range(warm_up):
        for epoch in epochs.values():
            time_epoch(epoch, device)
    timing = Timing({name: [] for name in epochs})
    end = time.monotonic() + lasting
    done = 0
    while done < rounds or time.monotonic() < end:
        for name in list(epochs)[:: 1 if done % 2 else -1]:
            timing.seconds[name].append(time_epoch(epochs[name], device, clock))
        done += 1
    return timing


def with_more_rounds(timing: Timing, again: Callable[[], Timing], kept: Callable[[Timing], bool | None]) -> Timing:
    """If a bound does not hold, measure `EXTRA_MEASUREMENTS` times more, and combine all rounds.

    More rounds reduce the scatter that other load on the machine causes. All rounds count, and measuring does not stop
    as soon as the bound holds. If rounds fill a fixed time, a faster process contributes more of them. A figure that
    is within its bound by chance is not measured again, so the check is lenient to that extent.

    Args:
        timing: the first rounds.
        again: measures further rounds.
        kept: returns whether the bound holds, or None if there is no bound.
    """
    if kept(timing) is False:
        for _ in range(EXTRA_MEASUREMENTS):
            timing += again()
    return timing
