"""Pruning: after which epochs trials of a search are compared, and which of them stop early."""

import math
from collections.abc import Sequence

from methods import Method
from methods.core.wrapper import methods_within

REDUCTION_FACTOR = 2
"""The better 1 / REDUCTION_FACTOR of the trials continues at each rung (η of successive halving)."""
FIRST_RUNG = 1 / 3
"""Share of all epochs before the first rung. Earlier, at the full learning rate, ranks predict little."""


def departure_epoch(method: Method) -> int:
    """Return the epoch in which the last part of a method departs from plain training, or 0 if no part starts later."""
    return max((part.start_epoch for part in methods_within(method) if part.start_epoch < part.epochs), default=0)


def rungs(epochs: int) -> list[int]:
    """List the rungs: the epochs after which trials are compared.

    The first rung is at a third of all epochs. Each further one is REDUCTION_FACTOR times later.
    """
    found, rung = [], max(1, math.ceil(FIRST_RUNG * epochs))
    while rung < epochs:
        found.append(rung)
        rung *= REDUCTION_FACTOR
    return found


def survives_rung(value: float, others: Sequence[float], *, lower: bool) -> bool:
    """Check whether a trial continues after a rung, by asynchronous successive halving.

    The rule is that of Optuna's `SuccessiveHalvingPruner` (Li et al., A system for massively parallel hyperparameter
    tuning, MLSys 2020), written as a function of the reported values. Optuna's own pruner records the comparison before
    the trial stops, so a trial that is killed in between would continue.

    Args:
        value: of the trial.
        others: values of all other trials at the same epoch.
        lower: whether lower values are better.
    """
    sign = 1.0 if lower else -1.0
    ranked = sorted(sign * each for each in (value, *others))
    return sign * value <= ranked[max(len(ranked) // REDUCTION_FACTOR, 1) - 1]
