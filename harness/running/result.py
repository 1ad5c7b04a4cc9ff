"""Builds the result of a run: what the evaluation found, what the run cost, and how it was made."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from harness.costs.cost import Cost
from harness.costs.parameters import parameters_trained
from harness.evaluation.evaluate import Evaluation
from harness.evaluation.landscape import Landscape
from harness.planning.trunks import TrunkRun
from harness.store.environment import describe_environment
from harness.studies.run import Run
from methods import Method
from methods.core.forking import TrainingSource, is_shared, training_source
from methods.core.wrapper import methods_within

COUNTED_COSTS = ("forward_examples", "backward_examples", "optimizer_steps")
"""The parts of a cost that are the same whenever a run is repeated."""
TIMED_COSTS = ("train_seconds", "peak_memory_bytes")
"""The parts of a cost that differ from machine to machine."""


def make_result(
    run: Run,
    method: Method,
    found: Evaluation,
    around: Landscape,
    cost: Cost,
    spent: Cost,
    needed: Sequence[Mapping[str, Any]],
    device: torch.device,
    contained: Collection[str] = (),
) -> dict[str, Any]:
    """Return a run's result as JSON values.

    Args:
        run: the run's spec.
        method: its method, prepared for prediction.
        found: what the evaluation found.
        around: what else the study asked to be measured.
        cost: the cost of the run's own training, with the epochs that a trunk trained.
        spent: the part of that cost which no trunk had spent before.
        needed: results of the runs and trunks it started from. What the run costs alone is its own cost and that of
            each run and trunk it started from, directly or not, once.
        device: the device that trained it.
        contained: keys of needed trunks that are no part of the cost, for runs that it needs pass through them.

    Returns:
        The result. It is the same whenever the run is repeated, except for "timing", and for "spent", which depends on
        the trunks that were available. It has "chosen_on" only if the run's state, or that of a run it started from,
        was chosen on test data. It has "arrays" and "left_out" only if the study asked for arrays. It has
        "cost_by_run" only if it started from others: what "cost" adds up. The seconds and the memory in it differ
        whenever the run is repeated, too.
    """
    by_run = cost_by_run(needed, contained) | {run.key: own_cost(cost, parameters_trained(method))}
    alone, trained = add_costs(by_run.values())
    return {
        "key": run.key,
        "run": str(run),
        "spec": run.spec(),
        "evaluated_on": "test",
        **chosen_on(method, needed),
        "metrics": found.metrics | around.metrics,
        **({"arrays": around.names} if around.arrays else {}),
        **({"left_out": around.unavailable} if around.unavailable else {}),
        "members": found.curves,
        "cost": {
            **select_costs(alone, COUNTED_COSTS),
            "parameters_trained": trained,
            "parameters_kept": found.parameters_kept,
            "forwards_per_example": found.forwards_per_example,
        },
        **({"cost_by_run": by_run} if needed else {}),
        "spent": select_costs(spent, COUNTED_COSTS),
        "timing": {
            **select_costs(alone, TIMED_COSTS, "cost/"),
            **select_costs(spent, TIMED_COSTS, "spent/"),
            "cost/seconds_per_1000_predictions": found.seconds_per_1000,
            "finished": time.time(),
        },
        "provenance": describe_environment(device),
    }


def make_trunk_result(
    trunk: TrunkRun,
    method: Method,
    cost: Cost,
    spent: Cost,
    needed: Sequence[Mapping[str, Any]],
    device: torch.device,
    contained: Collection[str] = (),
) -> dict[str, Any]:
    """Return a trunk's result as JSON values: its own cost. A trunk is not evaluated.

    Args:
        trunk: the trunk's spec.
        method: the method that trained it.
        cost: the cost of all its epochs.
        spent: the part of that cost which no earlier trunk had spent before.
        needed: results of the runs and trunks it started from. They are listed in "cost_by_run" with the trunk itself,
            for the runs that start from the trunk.
        device: the device that trained it.
        contained: see `make_result`.
    """
    source = training_source(method, trunk.epochs - 1)
    trained = parameters_trained_in_trunk(source)
    by_run = cost_by_run(needed, contained) | {trunk.key: own_cost(cost, trained)}
    return {
        "key": trunk.key,
        "run": str(trunk),
        "spec": trunk.spec(),
        **chosen_on(source.method, needed),
        "metrics": {},
        "members": {},
        "cost": {**select_costs(cost, COUNTED_COSTS), "parameters_trained": trained},
        **({"cost_by_run": by_run} if needed else {}),
        "spent": select_costs(spent, COUNTED_COSTS),
        "timing": {
            **select_costs(cost, TIMED_COSTS, "cost/"),
            **select_costs(spent, TIMED_COSTS, "spent/"),
            "finished": time.time(),
        },
        "provenance": describe_environment(device),
    }


def select_costs(cost: Cost, names: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """Return parts of a cost as JSON values, without the peak memory if it was not measured.

    Args:
        cost: the cost.
        names: the names of the parts.
        prefix: put before each name.
    """
    values = {f"{prefix}{name}": getattr(cost, name) for name in names}
    return {name: value for name, value in values.items() if value or not name.endswith("peak_memory_bytes")}


def chosen_on(method: Method, needed: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what a result says of a state that was chosen on test data, or starts from such a state; else {}."""
    watches = [part.watches for part in methods_within(method)]
    return {"chosen_on": "test"} if "test" in watches or any("chosen_on" in result for result in needed) else {}


def parameters_trained_in_trunk(source: TrainingSource) -> int:
    """Count the parameters that a trunk trains: the same number, whichever run's method trains it.

    Args:
        source: what the trunk's last epoch trains.
    """
    trained = {id(p) for group in source.method.param_groups() for _, p in group["params"]}
    named = source.method.named_parameters()
    return sum(p.numel() for name, p in named if id(p) in trained and is_shared(source, name))


def own_cost(cost: Cost, trained: int) -> dict[str, Any]:
    """Return the cost of a run's own training as JSON values.

    Args:
        cost: the cost.
        trained: the number of parameters that it trains.
    """
    return {**select_costs(cost, COUNTED_COSTS), "parameters_trained": trained, **select_costs(cost, TIMED_COSTS)}


def cost_by_run(results: Iterable[Mapping[str, Any]], contained: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the own costs of finished runs, and of all that they started from, directly or not, by key.

    A result that does not list these, of a run that started from nothing or of an earlier version, counts as one run.

    Args:
        results: the runs' results.
        contained: keys of trunks that are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        timing = {name: result["timing"].get(f"cost/{name}", 0) for name in TIMED_COSTS}
        whole = Cost(**{name: result["cost"][name] for name in COUNTED_COSTS}, **timing)
        trained = result["cost"].get("parameters_trained", 0)  # trunks of earlier versions lack it
        found |= result.get("cost_by_run") or {result["key"]: own_cost(whole, trained)}
    return {key: cost for key, cost in found.items() if key not in contained}


def add_costs(costs: Collection[Mapping[str, Any]]) -> tuple[Cost, int]:
    """Add up own costs; return the sum, and the number of parameters trained."""
    names = (*COUNTED_COSTS, *TIMED_COSTS)
    alone = sum((Cost(**{name: cost.get(name, 0) for name in names}) for cost in costs), Cost())
    return alone, sum(cost["parameters_trained"] for cost in costs)
