"""A run's result: what evaluation found, what it cost, and what it was made with."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.costs.cost import Cost
from harness.costs.parameters import parameters_trained
from harness.evaluation.evaluate import Evaluation
from harness.evaluation.landscape import Landscape
from harness.planning.trunks import Trunk
from harness.store.environment import provenance
from harness.studies.run import Run
from methods import Method
from methods.core.wrapper import methods_within

COUNTED_COSTS = ("forward_examples", "backward_examples", "optimizer_steps")
"""What of a cost is the same whenever a run is repeated."""
TIMED_COSTS = ("train_seconds", "peak_memory_bytes")
"""What of a cost differs from machine to machine."""


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
    """Put a run's result together, as JSON values.

    Args:
        run: its spec.
        method: prepared for prediction.
        found: by evaluation.
        around: what else the study asked to be measured.
        cost: of the run's own training, all of it.
        spent: of that what no trunk had spent before.
        needed: results of the runs it started from, whose cost is part of what the run costs alone.
        device: that trained it.

    Returns:
        Everything that is the same whenever the run is repeated, but for what stands under "timing", and under
        "spent", which depends on the trunks that were there. "chosen_on" is there only if its state was chosen on test
        data, or that of a run it started from was; "arrays" and "left_out" only if the study asked for some.
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
        **({"left_out": around.left_out} if around.left_out else {}),
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
        "provenance": provenance(device),
    }


def make_trunk_result(trunk: Trunk, cost: Cost, spent: Cost, device: torch.device) -> dict[str, Any]:
    """Put together what a trunk cost, as JSON values; there is nothing else to say of it.

    Args:
        trunk: its spec.
        cost: of all its epochs.
        spent: of that what no earlier trunk had spent before.
        device: that trained it.
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
        "provenance": provenance(device),
    }


def select_costs(cost: Cost, names: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """Give some of a cost's figures as JSON values; memory only where it was measured."""
    values = {f"{prefix}{name}": getattr(cost, name) for name in names}
    return {name: value for name, value in values.items() if value or not name.endswith("peak_memory_bytes")}


def cost_of(result: Mapping[str, Any]) -> Cost:
    """Read from a finished run's result what it would have cost alone."""
    timing = {name: result["timing"].get(f"cost/{name}", 0) for name in TIMED_COSTS}
    return Cost(**{name: result["cost"][name] for name in COUNTED_COSTS}, **timing)
