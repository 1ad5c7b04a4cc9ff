"""What is searched for a method: the hyperparameters in its `space`, and in the spaces of the methods inside it."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from harness.costs.expected_cost import inner_method
from harness.parsing.method_expression import MethodSpec, format_value, hyperparameters, parse_method
from methods import Method

DIGITS = 4
"""Significant digits of a searched number: what is written into files is exactly what was trained with."""


@dataclass(frozen=True)
class Level:
    """A method of an expression, and where in it it stands.

    Attributes:
        spec: the method, with what is inside it.
        prefix: what its hyperparameters' names begin with: nothing for the outermost, `late_phase_bn.` inside of it.
        written: the names of the hyperparameters that the study writes out.
    """

    spec: MethodSpec
    prefix: str
    written: frozenset[str]


def levels(spec: MethodSpec, text: str, methods: Mapping[str, type[Method]]) -> list[Level]:
    """List the methods of an expression, the outermost first.

    Args:
        spec: what the expression means.
        text: the expression as the study writes it; a value equal to its default is written out in it, not in `spec`.
        methods: every method by name.
    """
    found: list[Level] = []
    node: ast.expr | None = ast.parse(text.strip(), mode="eval").body
    current: MethodSpec | None = spec
    prefix = ""
    while current:
        call = node if isinstance(node, ast.Call) else None
        written = frozenset(keyword.arg or "" for keyword in call.keywords) if call else frozenset()
        found.append(Level(current, prefix, written))
        node = call.args[0] if call and call.args else None
        current = inner_method(current, methods)
        prefix = f"{prefix}{current.name}." if current else ""
    return found


def as_written(spec: MethodSpec, text: str, methods: Mapping[str, type[Method]]) -> str:
    """Write a method with all that the study writes out, also what equals its default: two searches may differ in it.

    Args:
        spec: what the expression means.
        text: the expression as the study writes it, in any order.
        methods: every method by name.
    """
    inner = ""
    for level in reversed(levels(spec, text, methods)):
        given = level.spec.hyperparameters
        known = hyperparameters(methods[level.spec.name])
        arguments = [inner] if inner and (level.spec.of or "(" in inner) else []
        for name, (_, default) in known.items():
            if name in given or name in level.written:
                arguments.append(f"{name}={format_value(given.get(name, default))}")
        inner = f"{level.spec.name}({', '.join(arguments)})" if arguments else level.spec.name
    return inner


def search_space(spec: MethodSpec, text: str, methods: Mapping[str, type[Method]]) -> dict[str, BaseDistribution]:
    """Give the distribution of each hyperparameter that the study does not write out, by its name with prefix."""
    return {
        f"{level.prefix}{name}": distribution
        for level in levels(spec, text, methods)
        for name, distribution in methods[level.spec.name].space.items()
        if name not in level.written
    }


def default_values(spec: MethodSpec, text: str, methods: Mapping[str, type[Method]]) -> dict[str, Any]:
    """Give the values that the searched hyperparameters have by default.

    Raises:
        ValueError: for a default outside of its own range.
    """
    values = {}
    for level in levels(spec, text, methods):
        method = methods[level.spec.name]
        for name, distribution in method.space.items():
            if name in level.written:
                continue
            value = hyperparameters(method)[name][1]
            try:  # what Optuna says to a value outside of its range
                create_trial(state=TrialState.RUNNING, params={name: value}, distributions={name: distribution})
            except (TypeError, ValueError) as error:
                message = f"{level.spec.name}: the default {name}={value!r} lies outside of its space, {distribution}"
                raise ValueError(message) from error
            values[f"{level.prefix}{name}"] = value
    return values


def with_values(spec: MethodSpec, values: Mapping[str, Any], methods: Mapping[str, type[Method]]) -> MethodSpec:
    """Give a method with values for some of its hyperparameters, and of those inside it.

    Args:
        spec: the method.
        values: by name with prefix, as `search_space` gives them.
        methods: every method by name.

    Raises:
        ValueError: for names that it does not have, and for values that are not of their type.
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


def tidy(value: Any, distribution: BaseDistribution) -> Any:
    """Round a number that was drawn from a continuous range, so that it can be read, inside of the range."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)


def search_range(distribution: BaseDistribution) -> str:
    """Say in which range a hyperparameter is searched."""
    if isinstance(distribution, CategoricalDistribution):
        return " or ".join(map(format_value, distribution.choices))
    known: Any = distribution
    step = f", in steps of {known.step}" if known.step not in (None, 1) else ""
    return f"{known.low} to {known.high}{step}{', logarithmic' if known.log else ''}"
