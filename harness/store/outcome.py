"""How a run ended."""

from typing import Literal, NamedTuple

State = Literal["finished", "failed", "diverged", "out of memory", "elsewhere", "blocked"]
"""A blocked run could not write its files, and nor could another one: it has not failed, and goes on later."""
ALREADY_FINISHED = "it was finished before"
"""Why a run is finished that was not trained now."""


class Outcome(NamedTuple):
    """How a run ended, and why if it did not finish.

    One that ran out of memory may be tried again alone. One that is elsewhere has not ended: another process works on
    it, and has perhaps taken it over from this one.
    """

    state: State
    reason: str = ""


class DivergenceError(Exception):
    """The loss is no longer a number."""
