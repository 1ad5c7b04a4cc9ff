"""The search space of a method expression, and methods with values from that space.

The search space contains the `space` of the method and of every method inside it.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from harness.costs.expected_cost import inner_method
from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.method_expression import MethodSpec, format_value, parse_method
from methods import Method

DIGITS = 4
"""Significant digits of a drawn number. Rounding it first makes files contain exactly the value of the training."""


@dataclass(frozen=True)
class NestedMethod:
    """One method of an expression such as `swa(late_phase_bn)`.

    Attributes:
        spec: the method, with the methods inside it.
        prefix: prefix of its hyperparameters' names: "" for the outermost method, `late_phase_bn.` for one inside.
        written: names of the hyperparameters that the study writes out.
    """

    spec: MethodSpec
    prefix: str
    written: frozenset[str]


def nested_methods(spec: MethodSpec, expression: str, methods: Mapping[str, type[Method]]) -> list[NestedMethod]:
    """List the methods of an expression, the outermost first.

    Args:
        spec: the parsed expression.
        expression: as the study writes it. It also has the written values that equal their defaults; `spec` does not.
        methods: every method by name.
    """
    found: list[NestedMethod] = []
    node: ast.expr | None = ast.parse(expression.strip(), mode="eval").body
    current: MethodSpec | None = spec
    prefix = ""
    while current:
        call = node if isinstance(node, ast.Call) else None
        written = frozenset(keyword.arg or "" for keyword in call.keywords) if call else frozenset()
        found.append(NestedMethod(current, prefix, written))
        node = call.args[0] if call and call.args else None
        current = inner_method(current, methods)
        prefix = f"{prefix}{current.name}." if current else ""
    return found


def normalize_expression(spec: MethodSpec, expression: str, methods: Mapping[str, type[Method]]) -> str:
    """Return an expression in a fixed order, with every hyperparameter that the study writes out.

    It includes written values that equal their defaults, because searches of `mc_dropout(K=10)` and `mc_dropout` differ
    even if 10 is the default.

    Args:
        spec: the parsed expression.
        expression: as the study writes it, with hyperparameters in any order.
        methods: every method by name.
    """
    inner = ""
    for method in reversed(nested_methods(spec, expression, methods)):
        given = method.spec.hyperparameters
        known = hyperparameters(methods[method.spec.name])
        arguments = [inner] if inner and (method.spec.of or "(" in inner) else []
        for name, (_, default) in known.items():
            if name in given or name in method.written:
                arguments.append(f"{name}={format_value(given.get(name, default))}")
        inner = f"{method.spec.name}({', '.join(arguments)})" if arguments else method.spec.name
    return inner


def search_space(spec: MethodSpec, expression: str, methods: Mapping[str, type[Method]]) -> dict[str, BaseDistribution]:
    """Return the distribution of each hyperparameter that the study does not write out, by its name with prefix."""
    return {
        f"{nested.prefix}{name}": distribution
        for nested in nested_methods(spec, expression, methods)
        for name, distribution in methods[nested.spec.name].space.items()
        if name not in nested.written
    }


def default_values(spec: MethodSpec, expression: str, methods: Mapping[str, type[Method]]) -> dict[str, Any]:
    """Return the default value of each searched hyperparameter, by its name with prefix.

    Raises:
        ValueError: if a default is outside its own range.
    """
    values = {}
    for nested in nested_methods(spec, expression, methods):
        method = methods[nested.spec.name]
        for name, distribution in method.space.items():
            if name in nested.written:
                continue
            value = hyperparameters(method)[name][1]
            try:  # Optuna raises for a value outside its range
                create_trial(state=TrialState.RUNNING, params={name: value}, distributions={name: distribution})
            except (TypeError, ValueError) as error:
                message = f"{nested.spec.name}: the default {name}={value!r} is outside its space, {distribution}"
                raise ValueError(message) from error
            values[f"{nested.prefix}{name}"] = value
    return values


def with_values(spec: MethodSpec, values: Mapping[str, Any], methods: Mapping[str, type[Method]]) -> MethodSpec:
    """Return a method with other values for some hyperparameters of it and of the methods inside it.

    Args:
        spec: the method.
        values: by name with prefix, as in `search_space`.
        methods: every method by name.

    Raises:
        ValueError: for an unknown name, or a value of the wrong type.
    """
    inner = inner_method(spec, methods)
    prefix = f"{inner.name}." if inner else None
    inside = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)} if prefix else {}
    own = {name: value for name, value in values.items() if prefix is None or not name.startswith(prefix)}
    made = spec.model_copy(update={"hyperparameters": {**spec.hyperparameters, **own}})
    if inner and inside:
        made = made.model_copy(update={"of": with_values(inner, inside, methods)})
    found, errors = parse_method(str(made), methods)
    if not found:
        raise ValueError("; ".join(errors))
    return found


def round_drawn(value: Any, distribution: BaseDistribution) -> Any:
    """Round a value drawn from a continuous range to `DIGITS`, but not out of the range. Return other values as is."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)


def search_range(distribution: BaseDistribution) -> str:
    """Describe the range in which a hyperparameter is searched."""
    if isinstance(distribution, CategoricalDistribution):
        return " or ".join(map(format_value, distribution.choices))
    known: Any = distribution
    step = f", in steps of {known.step}" if known.step not in (None, 1) else ""
    return f"{known.low} to {known.high}{step}{', logarithmic' if known.log else ''}"
