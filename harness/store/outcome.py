"""The outcome of a run: finished, failed, diverged, out of memory, elsewhere or blocked."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

State = Literal["finished", "failed", "diverged", "out of memory", "elsewhere", "blocked"]
"""Final states of an attempt to execute a run.

finished: the result is written. failed: an exception ended the run. diverged: the loss or a measurement became NaN or
infinite.
out of memory: the run may be retried alone. elsewhere: another process works on the run, so it has not ended.
blocked: the files could not be written, which is no failure of the run; the run continues later.
"""
ALREADY_FINISHED = "it was finished before"
"""The reason of a finished run whose result existed before."""


class Outcome(NamedTuple):
    """The outcome of one attempt to execute a run.

    Attributes:
        state: how the attempt ended. Elsewhere may mean that another process took over the run from this one.
        reason: why the run did not finish; "" for none.
    """

    state: State
    reason: str = ""


class DivergenceError(Exception):
    """The loss, or a measurement of the trained networks, became NaN or infinite."""


def check_finite(values: Mapping[str, float], when: str) -> None:
    """Check that measurements are numbers.

    Args:
        values: the measurements by name.
        when: when they were made, for the message, as in "at evaluation".

    Raises:
        DivergenceError: naming those that are NaN or infinite.
    """
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise DivergenceError(f"not a number {when}: {', '.join(bad)}")
