"""One search, for one method on one dataset with one architecture: what to try next, and when to end.

What is tried next is a function of the seed, the number of the trial and the trials before it alone, so that a search
that was killed goes on as if it never had been.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

import data
from harness.costs.expected_cost import expected_cost
from harness.store.run_folder import key_of
from harness.studies.build_method import imagine_method
from harness.studies.run import Run
from harness.tuning.search_space import tidy, with_values
from harness.tuning.trial_budget import Budget, budget_used, default_trial, failed_last
from harness.tuning.trial_journal import Metric, trial_end
from methods import Method
from methods.core.streams import stream

STARTUP = 5
"""Trials that are drawn at random before TPE begins, the defaults counted: half of Optuna's ten, for short searches."""
VERSION = 2
"""Raised whenever the same search would try or prune other values; part of a search's key."""


@dataclass(frozen=True)
class Proposal:
    """Values to try.

    Attributes:
        values: by name.
        run: with them; None if they were refused.
        cost: that is expected, in plain trainings.
        refused: why they are not tried.
        same_as: the trial that tried them already.
    """

    values: dict[str, Any]
    run: Run | None = None
    cost: float = 0.0
    refused: str = ""
    same_as: int | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """What the journal notes of a trial with them, or of their being refused."""
        if self.run is None:
            return {} if self.same_as is None else {"same_as": self.same_as}
        return {"key": self.run.key, "method": str(self.run.method), "expected": self.cost}


@dataclass(frozen=True)
class Search:
    """The search for one method.

    Attributes:
        run: the study's own values of the method, with the seed of tuning, and without what only a test needs.
        label: what the study calls the method.
        space: what is searched, by name.
        defaults: the first values that are tried.
        metric: what is made better, on validation data.
        prune: whether trials that do badly are stopped early; the defaults never are.
        methods: every method by name.
        expression: the method with all that the study writes out, also what equals its default.
    """

    run: Run
    label: str
    space: dict[str, BaseDistribution]
    defaults: dict[str, Any]
    metric: Metric
    prune: bool
    methods: Mapping[str, type[Method]] = field(repr=False)
    expression: str

    @cached_property
    def key(self) -> str:
        """The SHA-256 of everything that decides what is tried and how it ends, but for the budget."""
        space = {name: distribution_to_json(distribution) for name, distribution in self.space.items()}
        return key_of(
            {"run": self.run.key, "space": space, "metric": self.metric, "prune": self.prune, "version": VERSION}
        )

    @property
    def dataset_and_architecture(self) -> str:
        """Name what is trained, but for the method."""
        return f"{self.run.dataset.label} · {self.run.architecture}"

    def __str__(self) -> str:
        """Name the search for people."""
        return f"{self.expression} · {self.dataset_and_architecture}"

    def better(self, value: float, than: float) -> bool:
        """Compare two values of the metric."""
        return value < than if self.metric == "nll" else value > than

    def best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Give the best of the finished trials, the earliest of equal ones; None if there is none."""
        best: FrozenTrial | None = None
        for trial in trials:
            if trial.state == TrialState.COMPLETE and (best is None or self.better(trial.values[0], best.values[0])):
                best = trial
        return best

    def expected(self, run: Run) -> float:
        """Say what a trial should cost, in plain trainings."""
        return expected_cost(run.method, self.methods, run.recipe.epochs)

    def can_begin_trial(self, trials: Sequence[FrozenTrial], budget: Budget) -> bool:
        """Say whether one more trial may begin.

        The cheapest one seen must fit into the budget. If the study's own values failed, so would most others (a full
        disk, data that are gone): nothing else is tried before they have been tried again.
        """
        if not trials:
            return True
        if trial_end(default_trial(trials))["state"] == "failed":
            return False
        used = budget_used(trials)
        costs = [trial.user_attrs["expected"] for trial in trials if "expected" in trial.user_attrs]
        least = min([self.expected(self.run), *costs])
        return used.counted < budget.trials and used.free < budget.free and used.cost + least <= budget.most

    def propose(self, trials: Sequence[FrozenTrial], budget: Budget) -> Proposal:
        """Say what to try next; the first are the defaults.

        Args:
            trials: all so far, refused ones too.
            budget: what may be used.
        """
        number = len(trials)
        values = self.defaults if not number else self.draw(trials)
        try:
            method = with_values(self.run.method, values, self.methods)
            run = self.run.model_copy(update={"method": method})
            imagine_method(run, self.methods, data.shape(run.dataset.name, **run.dataset.options()))
            cost = self.expected(run)
        except Exception as error:  # whatever a user's own method raises is the user's to read
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return Proposal(values, refused=reason)
        for trial in trials:
            if trial.user_attrs.get("key") == run.key:
                return Proposal(values, refused=f"the same as trial {trial.number}", same_as=trial.number)
        used = budget_used(trials).cost
        if number and used + cost > budget.most:
            left = max(budget.cost - used, 0.0)
            return Proposal(values, refused=f"costs {cost:.3g} plain trainings, and {left:.3g} are left")
        return Proposal(values, run, cost)

    def draw(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Draw values by the tree-structured Parzen estimator: a function of the seed and the trials so far.

        Trials that run count as bad ones meanwhile (`constant_liar`), so that workers do not crowd at one place.
        After a duplicate values are drawn at random, for the estimator may give the same ones again and again.
        """
        seed = stream(self.run.seed, f"tuning {self.key}", len(trials)).initial_seed() % 2**32
        direction = "minimize" if self.metric == "nll" else "maximize"
        if trials and "same_as" in trials[-1].user_attrs:
            sampler = RandomSampler(seed=seed)
        else:
            sampler = TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
        memory = optuna.create_study(direction=direction, sampler=sampler)
        memory.add_trials([seen for trial in trials if (seen := as_seen(trial))])
        drawn = memory.ask(dict(sorted(self.space.items()))).params
        return {name: tidy(drawn[name], distribution) for name, distribution in self.space.items()}

    def not_tried_again(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """List the failed trials whose values were not tried again."""
        return [trial for trial in trials if failed_last(trial, trials)]


def trained(run: Run, text: str, methods: Mapping[str, type[Method]]) -> tuple[Run, str, Method]:
    """Give what is trained of a run: of a method that trains nothing itself, the method whose runs it combines.

    Args:
        run: of any method.
        text: the method as the study writes it.
        methods: every method by name.

    Returns:
        The run, the method as it is written there, and the method without values.
    """
    method = imagine_method(run, methods, data.shape(run.dataset.name, **run.dataset.options()))
    while not method.epochs and run.method.of:
        run = run.model_copy(update={"method": run.method.of})
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        text = ast.unparse(call.args[0])
        method = imagine_method(run, methods, data.shape(run.dataset.name, **run.dataset.options()))
    return run, text, method


def as_seen(trial: FrozenTrial) -> FrozenTrial | None:
    """Give what the sampler is told of a trial; None for nothing.

    Refused and diverged ones are the worst of all: Optuna takes a pruned trial without values for such, and would
    not look at one that failed. Values that were tried already say nothing new, least of all that they are bad.
    """
    if "same_as" in trial.user_attrs:
        return None
    if trial_end(trial)["state"] != "diverged":
        return trial
    return create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions)
