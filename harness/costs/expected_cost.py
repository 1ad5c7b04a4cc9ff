"""What a method should cost, by its own words, before anything is trained."""

import math
from collections.abc import Mapping

from harness.parsing.method_expression import MethodSpec, hyperparameters
from methods import Method

FORWARD_COST_SHARE = 1 / 3
"""Of a forward and backward pass, as in the leaderboard's training cost: a backward pass counts as two forward ones."""


def inner_method(spec: MethodSpec, methods: Mapping[str, type[Method]]) -> MethodSpec | None:
    """Give the method that one is made of, also where the study leaves it out; None for one made of no other."""
    known = hyperparameters(methods[spec.name])
    if spec.of or "of" not in known:
        return spec.of
    usual = known["of"][1]
    return next((MethodSpec(name=n, version=m.version) for n, m in methods.items() if m is usual), None)


def expected_cost(spec: MethodSpec, methods: Mapping[str, type[Method]], epochs: int) -> float:
    """Say how many plain trainings a method's training should cost, from what it says `about` itself.

    Raises:
        ValueError: for an expression that its hyperparameters do not decide.
    """
    factor = 1.0
    current: MethodSpec | None = spec
    passes = evaluate_cost_expression(spec, methods, "passes", epochs)
    while current:
        factor *= evaluate_cost_expression(current, methods, "training", epochs)
        current = inner_method(current, methods)
    return factor + passes * FORWARD_COST_SHARE / epochs


def evaluate_cost_expression(spec: MethodSpec, methods: Mapping[str, type[Method]], field: str, epochs: int) -> float:
    """Evaluate one of the expressions of `Method.about` for a method's hyperparameters."""
    method = methods[spec.name]
    values = {name: default for name, (_, default) in hyperparameters(method).items()} | dict(spec.hyperparameters)
    start = values.get("start")
    fraction = 1.0 if start is None else start / epochs if isinstance(start, int) else start
    expression = getattr(method.about, field)
    try:
        cost = float(eval(expression, {"__builtins__": {}}, values | {"epochs": epochs, "start": fraction}))
    except Exception as error:  # whatever a user's own expression raises
        raise ValueError(f"{method.__name__}.about.{field}: {expression}: {error}") from error
    if not (math.isfinite(cost) and cost >= 0):
        raise ValueError(f"{method.__name__}.about.{field}: {expression} is {cost}, no cost")
    return cost
