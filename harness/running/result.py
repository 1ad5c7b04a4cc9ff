"""Builds the result of a run: what the evaluation found, what the run cost, and how it was made."""

import time
from collections.abc import Mapping, Sequence
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
) -> dict[str, Any]:
    """Return a run's result as JSON values.

    Args:
        run: the run's spec.
        method: its method, prepared for prediction.
        found: what the evaluation found.
        around: what else the study asked to be measured.
        cost: the cost of the run's own training, with the epochs that a trunk trained.
        spent: the part of that cost which no trunk had spent before.
        needed: results of the runs it started from. Their cost is part of what the run costs alone.
        device: the device that trained it.

    Returns:
        The result. It is the same whenever the run is repeated, except for "timing", and for "spent", which depends on
        the trunks that were available. It has "chosen_on" only if the run's state, or that of a run it started from,
        was chosen on test data. It has "arrays" and "left_out" only if the study asked for arrays.
    """
    alone = sum((cost_of(result) for result in needed), cost)
    trained = parameters_trained(method) + sum(result["cost"]["parameters_trained"] for result in needed)
    on_test = any(part.watches == "test" for part in methods_within(method)) or any("chosen_on" in r for r in needed)
    return {
        "key": run.key,
        "run": str(run),
        "spec": run.spec(),
        "evaluated_on": "test",
        **({"chosen_on": "test"} if on_test else {}),
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
        "spent": select_costs(spent, COUNTED_COSTS),
        "timing": {
            **select_costs(alone, TIMED_COSTS, "cost/"),
            **select_costs(spent, TIMED_COSTS, "spent/"),
            "cost/seconds_per_1000_predictions": found.seconds_per_1000,
            "finished": time.time(),
        },
        "provenance": describe_environment(device),
    }


def make_trunk_result(trunk: TrunkRun, cost: Cost, spent: Cost, device: torch.device) -> dict[str, Any]:
    """Return a trunk's result as JSON values: its cost. A trunk is not evaluated.

    Args:
        trunk: the trunk's spec.
        cost: the cost of all its epochs.
        spent: the part of that cost which no earlier trunk had spent before.
        device: the device that trained it.
    """
    return {
        "key": trunk.key,
        "run": str(trunk),
        "spec": trunk.spec(),
        "metrics": {},
        "members": {},
        "cost": select_costs(cost, COUNTED_COSTS),
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


def cost_of(result: Mapping[str, Any]) -> Cost:
    """Return what a finished run would have cost alone, from its result."""
    timing = {name: result["timing"].get(f"cost/{name}", 0) for name in TIMED_COSTS}
    return Cost(**{name: result["cost"][name] for name in COUNTED_COSTS}, **timing)
