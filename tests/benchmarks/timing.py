"""Epochs timed in turns, and what their rounds say: a median, its quartiles, and whether a bound holds.

Compared is within rounds: what else the machine does meanwhile slows both kinds of epoch.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Epoch = Callable[[], object]
MORE = 2
"""How many times more rounds are timed where a bound does not hold."""


@dataclass(frozen=True)
class Timing:
    """Seconds of several kinds of epochs.

    Attributes:
        seconds: of each kind, one epoch a round.
        memory: the most bytes that one kind held, where that was measured.
    """

    seconds: dict[str, list[float]]
    memory: int = 0

    def __add__(self, other: "Timing") -> "Timing":
        """Pool the rounds of two measurements of the same kinds."""
        pooled = {name: taken + other.seconds[name] for name, taken in self.seconds.items()}
        return Timing(pooled, max(self.memory, other.memory))

    def median(self, name: str) -> float:
        """Give the median of a kind's seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, one: str, other: str) -> list[float]:
        """Give how many times as long as the other one takes, round by round."""
        return [a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]


@dataclass(frozen=True)
class Measured:
    """What rounds gave, beside the bound that it is to keep.

    Attributes:
        value: the median.
        quartiles: the lower and the upper one; of few rounds, interpolated between them.
        rounds: how many there were.
        bound: what the value is to be at most; None for nothing.
        least: that it is to be at least the bound.
    """

    value: float
    quartiles: tuple[float, float]
    rounds: int
    bound: float | None = None
    least: bool = False

    @classmethod
    def of(cls, values: Sequence[float], bound: float | None = None, *, least: bool = False) -> "Measured":
        """Sum up the values of rounds."""
        if len(values) == 1:
            return cls(values[0], (values[0], values[0]), 1, bound, least)
        lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, (lower, upper), len(values), bound, least)

    @property
    def kept(self) -> bool | None:
        """Whether the median keeps the bound; None where there is none."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.least else self.value <= self.bound

    def describe(self) -> dict[str, Any]:
        """Write it for a JSON file."""
        return {
            "value": self.value,
            "quartiles": list(self.quartiles),
            "rounds": self.rounds,
            "bound": self.bound,
            "at_least": self.least,
            "kept": self.kept,
        }

    def __str__(self) -> str:
        """Write it for a line of a table: the median, the quartiles, and the bound."""
        digits, of_bound = (3, 2) if abs(self.value) < 100 else (0, 0)
        value, lower, upper = (f"{each:,.{digits}f}" for each in (self.value, *self.quartiles))
        said = f"{value} [{lower}, {upper}]"
        if self.bound is not None:
            said += f" {'>=' if self.least else '<='} {self.bound:,.{of_bound}f}"
        return said + (" NOT KEPT" if self.kept is False else "")


@dataclass
class Judge:
    """Notes which figures do not keep their bounds.

    Attributes:
        bad: these figures.
    """

    bad: list[str] = field(default_factory=list)

    def __call__(self, what: str, measured: Measured) -> str:
        """Write a figure beside its bound, if it has one."""
        if measured.kept is False:
            self.bad.append(f"{what}: {measured}")
        return str(measured)

    def end(self) -> None:
        """Fail if a bound did not hold."""
        if self.bad:
            print("not kept: " + "; ".join(self.bad))
            sys.exit(1)


def seconds(epoch: Epoch, device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time an epoch, to the end of what it started on the device."""
    start = clock()
    epoch()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turns(
    epochs: dict[str, Epoch],
    device: str,
    rounds: int,
    warm_up: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    lasting: float = 0.0,
) -> Timing:
    """Time several kinds of epochs in turns, each round in the other order.

    Args:
        epochs: what is timed, by name.
        device: "cpu" or "cuda".
        rounds: how many there are, at least.
        warm_up: epochs of each kind before the first round.
        clock: gives seconds.
        lasting: seconds within which further ones begin.
    """
    for _ in range(warm_up):
        for epoch in epochs.values():
            seconds(epoch, device)
    timing = Timing({name: [] for name in epochs})
    end = time.monotonic() + lasting
    done = 0
    while done < rounds or time.monotonic() < end:
        for name in list(epochs)[:: 1 if done % 2 else -1]:
            timing.seconds[name].append(seconds(epochs[name], device, clock))
        done += 1
    return timing


def with_more_rounds(timing: Timing, again: Callable[[], Timing], kept: Callable[[Timing], bool | None]) -> Timing:
    """Time again, `MORE` times, where a bound does not hold, and pool all rounds.

    More rounds narrow what other work of the machine scatters; none is left out, and they do not end where the bound
    happens to hold. Of rounds that last a time, a faster process has more. What keeps a bound by chance at first is not
    timed again: that much is lenient.

    Args:
        timing: the first rounds.
        again: times more.
        kept: whether the bound holds; None where there is none.
    """
    if kept(timing) is False:
        for _ in range(MORE):
            timing += again()
    return timing
