"""The search for hyperparameters of one method, on one dataset with one architecture.

The next values are a function of the seed and the earlier trials alone. A search that was killed therefore continues as
if it had not been killed.
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
from harness.store.run_folder import spec_key
from harness.studies.build_method import build_meta_method
from harness.studies.run import Run
from harness.tuning.search_space import round_drawn, with_values
from harness.tuning.trial_budget import Budget, budget_used, default_trial, failed_without_retry
from harness.tuning.trial_journal import Metric, trial_end
from methods import Method
from methods.core.random_streams import stream

STARTUP_TRIALS = 5
"""Number of trials before TPE begins: the defaults, then random draws. Half of Optuna's default, for short searches."""
VERSION = 2
"""Part of a search's key. Raise it with every change by which the same search would try or prune other values."""


@dataclass(frozen=True)
class Proposal:
    """Values for the next trial, or values that are refused.

    Attributes:
        values: hyperparameters, by name.
        run: the run with these values; None if they are refused.
        cost: expected cost, in plain trainings of one network.
        refused: why the values are not tried; "" if they are.
        same_as: number of an earlier trial with the same values.
    """

    values: dict[str, Any]
    run: Run | None = None
    cost: float = 0.0
    refused: str = ""
    same_as: int | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that the journal keeps with the trial or refusal."""
        if self.run is None:
            return {} if self.same_as is None else {"same_as": self.same_as}
        return {"key": self.run.key, "method": str(self.run.method), "expected": self.cost}


@dataclass(frozen=True)
class Search:
    """The search for hyperparameters of one method, on one dataset with one architecture.

    Attributes:
        run: the run with the study's own values and the seed of tuning, without anything that only testing needs.
        label: the study's name for the method.
        space: distributions of the searched hyperparameters, by name.
        defaults: values of the first trial.
        metric: the metric to optimize, on validation data.
        prune: whether bad trials are stopped early. The trial of the defaults never is.
        methods: every method by name.
        expression: the method with every hyperparameter that the study writes out, even if it equals its default.
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
        """The SHA-256 of everything that determines the trials and their ends, except the budget."""
        space = {name: distribution_to_json(distribution) for name, distribution in self.space.items()}
        return spec_key(
            {"run": self.run.key, "space": space, "metric": self.metric, "prune": self.prune, "version": VERSION}
        )

    @property
    def dataset_and_architecture(self) -> str:
        """The dataset and the architecture, for people to read."""
        return f"{self.run.dataset.label} · {self.run.architecture}"

    def __str__(self) -> str:
        """Return a readable name of the search."""
        return f"{self.expression} · {self.dataset_and_architecture}"

    def better(self, value: float, than: float) -> bool:
        """Check whether one value of the metric is better than another one."""
        return value < than if self.metric == "nll" else value > than

    def best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Return the best finished trial, the earliest of equal ones. Return None if no trial has finished."""
        best: FrozenTrial | None = None
        for trial in trials:
            if trial.state == TrialState.COMPLETE and (best is None or self.better(trial.values[0], best.values[0])):
                best = trial
        return best

    def expected_cost(self, run: Run) -> float:
        """Return the expected cost of a trial, in plain trainings of one network."""
        return expected_cost(run.method, self.methods, run.recipe.epochs)

    def can_begin_trial(self, trials: Sequence[FrozenTrial], budget: Budget) -> bool:
        """Check whether one more trial may begin.

        The budget that is left must suffice for the cheapest trial so far. If the study's own values failed, other
        values would probably fail too, for example on a full disk or without data. The study's own values must then be
        retried first.
        """
        if not trials:
            return True
        if trial_end(default_trial(trials))["state"] == "failed":
            return False
        used = budget_used(trials)
        costs = [trial.user_attrs["expected"] for trial in trials if "expected" in trial.user_attrs]
        least = min([self.expected_cost(self.run), *costs])
        return (
            used.counted < budget.trials
            and used.uncounted < budget.max_uncounted
            and used.cost + least <= budget.max_cost
        )

    def propose(self, trials: Sequence[FrozenTrial], budget: Budget) -> Proposal:
        """Propose the values of the next trial. Those of the first trial are the defaults.

        Args:
            trials: all trials so far, including refused ones.
            budget: of the search.
        """
        number = len(trials)
        values = self.defaults if not number else self.sample(trials)
        try:
            method = with_values(self.run.method, values, self.methods)
            run = self.run.model_copy(update={"method": method})
            build_meta_method(run, self.methods, data.dataset_shape(run.dataset.name, **run.dataset.options()))
            cost = self.expected_cost(run)
        except (
            Exception,
            SystemExit,
        ) as error:  # a user's own method may raise anything; the user reads it as the reason
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return Proposal(values, refused=reason)
        for trial in trials:
            if trial.user_attrs.get("key") == run.key:
                return Proposal(values, refused=f"the same as trial {trial.number}", same_as=trial.number)
        used = budget_used(trials).cost
        if number and used + cost > budget.max_cost:
            left = max(budget.cost - used, 0.0)
            return Proposal(values, refused=f"costs {cost:.3g} plain trainings, and {left:.3g} are left")
        return Proposal(values, run, cost)

    def sample(self, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Draw values with the tree-structured Parzen estimator (TPE), as a function of the seed and the trials so far.

        Running trials count as bad ones (`constant_liar`), so that parallel workers do not all try similar values.
        After a duplicate, values are drawn at random, because TPE might propose the same values again and again.
        """
        seed = stream(self.run.seed, f"tuning {self.key}", len(trials)).initial_seed() % 2**32
        direction = "minimize" if self.metric == "nll" else "maximize"
        if trials and "same_as" in trials[-1].user_attrs:
            sampler = RandomSampler(seed=seed)
        else:
            sampler = TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True)
        study = optuna.create_study(direction=direction, sampler=sampler)
        study.add_trials([shown for trial in trials if (shown := trial_for_sampler(trial))])
        drawn = study.ask(dict(sorted(self.space.items()))).params
        return {name: round_drawn(drawn[name], distribution) for name, distribution in self.space.items()}

    def unretried_failures(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """List the failed trials whose values were not retried."""
        return [trial for trial in trials if failed_without_retry(trial, trials)]


def find_trained_run(run: Run, expression: str, methods: Mapping[str, type[Method]]) -> tuple[Run, str, Method]:
    """Find the run that trains something for a given run.

    A method that trains nothing itself combines runs of the method inside it. Its trained run is a run of that method.

    Args:
        run: of any method.
        expression: the method as the study writes it.
        methods: every method by name.

    Returns:
        The trained run, its method as written inside the expression, and that method without weights.
    """
    method = build_meta_method(run, methods, data.dataset_shape(run.dataset.name, **run.dataset.options()))
    while not method.epochs and run.method.of:
        run = run.model_copy(update={"method": run.method.of})
        call = ast.parse(expression.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        expression = ast.unparse(call.args[0])
        method = build_meta_method(run, methods, data.dataset_shape(run.dataset.name, **run.dataset.options()))
    return run, expression, method


def trial_for_sampler(trial: FrozenTrial) -> FrozenTrial | None:
    """Return a trial in the form in which the sampler is told of it, or None if the sampler is not told.

    A diverged trial becomes a pruned trial without values. Optuna ranks such a trial, like a refused one, as the worst
    of all, but ignores failed ones. A duplicate is left out: its values are not bad, and were told once already.
    """
    if "same_as" in trial.user_attrs:
        return None
    if trial_end(trial)["state"] != "diverged":
        return trial
    return create_trial(state=TrialState.PRUNED, params=trial.params, distributions=trial.distributions)
