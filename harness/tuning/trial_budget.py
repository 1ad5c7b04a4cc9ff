"""What a search may use, and what its trials have used."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from harness.tuning.trial_journal import trial_end

TOLERANCE = 0.01
"""Share of the budget that may be used beyond it: a pass or two over the data at the end of each training."""


@dataclass(frozen=True)
class Budget:
    """What every method may use; the study's own values are tried in any case.

    Attributes:
        trials: how many values are tried.
        cost: of their training, in plain trainings of one network.
    """

    trials: int
    cost: float

    @property
    def most(self) -> float:
        """What training may cost, with the tolerance."""
        return self.cost * (1 + TOLERANCE)

    @property
    def free(self) -> int:
        """How many values may be refused or fail, which count as no trials, before a search gives up."""
        return max(self.trials, 10)


@dataclass(frozen=True)
class Account:
    """What a search has used.

    Attributes:
        counted: trials that count: finished, pruned, diverged, running.
        running: those that run.
        free: trials that do not: refused, failed.
        cost: spent, and expected of those that run.
    """

    counted: int
    running: int
    free: int
    cost: float


def default_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """Give the trial of the study's own values: the last of them, should they have been tried again."""
    return [trial for trial in trials if trial.user_attrs.get("key") == trials[0].user_attrs.get("key")][-1]


def failed_last(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Say whether a trial failed and its values were not tried again."""
    later = trials[trial.number + 1 :]
    failed = trial_end(trial)["state"] == "failed"
    return failed and all(other.user_attrs.get("key") != trial.user_attrs["key"] for other in later)


def budget_used(trials: Sequence[FrozenTrial]) -> Account:
    """Sum up what trials have used."""
    states = [trial_end(trial)["state"] for trial in trials]
    counted = sum(state not in ("refused", "failed") for state in states)
    free = sum(state == "refused" or failed_last(trial, trials) for trial, state in zip(trials, states, strict=True))
    spent = sum(trial_end(trial)["cost"] for trial in trials)
    running = [trial for trial, state in zip(trials, states, strict=True) if state == "running"]
    return Account(counted, len(running), free, spent + sum(trial.user_attrs["expected"] for trial in running))
