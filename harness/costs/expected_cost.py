"""The training cost that a method declares, computed before anything is trained."""

import math
from collections.abc import Mapping

from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.method_expression import MethodSpec
from methods import Method

FORWARD_COST_SHARE = 1 / 3
"""Cost of a forward pass relative to a forward and backward pass. A backward pass counts as two forward passes.

The training cost of the leaderboard uses the same convention.
"""


def inner_method(spec: MethodSpec, methods: Mapping[str, type[Method]]) -> MethodSpec | None:
    """Return the spec of the method that a wrapper contains, or the wrapper's default if the study omits it.

    Returns:
        The inner spec; None if the method is no wrapper.
    """
    known = hyperparameters(methods[spec.name])
    if spec.of or "of" not in known:
        return spec.of
    usual = known["of"][1]
    return next((MethodSpec(name=n, version=m.version) for n, m in methods.items() if m is usual), None)


def expected_cost(spec: MethodSpec, methods: Mapping[str, type[Method]], epochs: int) -> float:
    """Return the expected training cost of a method, in plain trainings of one network.

    Args:
        spec: the method.
        methods: all methods by name. `Method.about` declares the cost of each.
        epochs: length of training.

    Raises:
        ValueError: if a cost expression cannot be evaluated with the method's hyperparameters.
    """
    factor = 1.0
    current: MethodSpec | None = spec
    passes = evaluate_cost_expression(spec, methods, "passes", epochs)
    while current:
        factor *= evaluate_cost_expression(current, methods, "training", epochs)
        current = inner_method(current, methods)
    return factor + passes * FORWARD_COST_SHARE / epochs


def evaluate_cost_expression(spec: MethodSpec, methods: Mapping[str, type[Method]], field: str, epochs: int) -> float:
    """Evaluate an expression of `Method.about` with a method's hyperparameters.

    Args:
        spec: the method and its hyperparameters.
        methods: all methods by name.
        field: field of `Method.about` that holds the expression.
        epochs: length of training.

    Raises:
        ValueError: if the expression fails, or if its value is no cost.
    """
    method = methods[spec.name]
    values = {name: default for name, (_, default) in hyperparameters(method).items()} | dict(spec.hyperparameters)
    start = values.get("start")
    fraction = 1.0 if start is None else start / epochs if isinstance(start, int) else start
    expression = getattr(method.about, field)
    try:
        cost = float(eval(expression, {"__builtins__": {}}, values | {"epochs": epochs, "start": fraction}))
    except Exception as error:  # a user's expression can raise anything
        raise ValueError(f"{method.__name__}.about.{field}: {expression}: {error}") from error
    if not (math.isfinite(cost) and cost >= 0):
        raise ValueError(f"{method.__name__}.about.{field}: {expression} is {cost}, no cost")
    return cost
