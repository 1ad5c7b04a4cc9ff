"""The budget of a search, and how much of it the search's trials have used."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from harness.tuning.trial_journal import trial_end

TOLERANCE = 0.01
"""Share of the budgeted cost by which a search may exceed it: some passes over the data at the end of each training."""


@dataclass(frozen=True)
class Budget:
    """The limits of one search. The study's own values are tried even if they exceed the limits.

    Attributes:
        trials: maximum number of trials.
        cost: maximum cost of their training, in plain trainings of one network.
    """

    trials: int
    cost: float

    @property
    def max_cost(self) -> float:
        """The maximum cost, tolerance included, in plain trainings of one network."""
        return self.cost * (1 + TOLERANCE)

    @property
    def max_uncounted(self) -> int:
        """The number of refused and failed trials after which a search ends. They do not count as trials."""
        return max(self.trials, 10)


@dataclass(frozen=True)
class BudgetUse:
    """How much of its budget a search has used.

    Attributes:
        counted: number of trials that count: finished, pruned, diverged or running.
        running: number of running trials.
        uncounted: number of trials that do not count: refused, or failed and not retried.
        cost: cost of the ended trials plus expected cost of the running ones, in plain trainings of one network.
    """

    counted: int
    running: int
    uncounted: int
    cost: float


def default_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the trial of the study's own values. If they were retried, return the last retry."""
    return [trial for trial in trials if trial.user_attrs.get("key") == trials[0].user_attrs.get("key")][-1]


def failed_without_retry(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Check whether a trial failed and no later trial has the same values."""
    later = trials[trial.number + 1 :]
    failed = trial_end(trial)["state"] == "failed"
    return failed and all(other.user_attrs.get("key") != trial.user_attrs["key"] for other in later)


def budget_used(trials: Sequence[FrozenTrial]) -> BudgetUse:
    """Return how much of the budget the trials of a search have used."""
    states = [trial_end(trial)["state"] for trial in trials]
    counted = sum(state not in ("refused", "failed") for state in states)
    uncounted = sum(
        state == "refused" or failed_without_retry(trial, trials) for trial, state in zip(trials, states, strict=True)
    )
    spent = sum(trial_end(trial)["cost"] for trial in trials)
    running = [trial for trial, state in zip(trials, states, strict=True) if state == "running"]
    expected = sum(trial.user_attrs["expected"] for trial in running)
    return BudgetUse(counted, len(running), uncounted, spent + expected)
