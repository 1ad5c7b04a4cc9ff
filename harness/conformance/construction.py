"""Checks of what a method is before it trains: its networks, hyperparameters and declarations."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from harness.conformance.attributes import plain_attributes
from harness.conformance.finding import Finding
from harness.conformance.small_run import RECIPE, Case, SmallRun, first_change, same
from harness.costs.expected_cost import evaluate_cost_expression
from harness.parsing.hyperparameters import hyperparameters
from harness.studies import build_method
from methods import Method
from methods.core.wrapper import methods_within


def check_declarations(case: Case) -> Iterator[Finding]:
    """Check the search space, the default values, the declared costs and the description."""
    method = case.methods[case.spec.name]
    known = hyperparameters(method)
    for name, distribution in method.space.items():
        if name not in known:
            yield Finding("space", f"{name!r} is no hyperparameter", "name a keyword-only argument of __init__")
            continue
        default = known[name][1]
        try:
            inside = distribution._contains(distribution.to_internal_repr(default))
        except (TypeError, ValueError):
            inside = False
        if not inside:
            yield Finding("space", f"the default {name}={default!r} lies outside of {distribution}", "widen the range")
    for field in ("training", "passes", "prediction"):
        try:
            evaluate_cost_expression(case.spec, case.methods, field, RECIPE.epochs)
        except ValueError as error:
            yield Finding("about", str(error), "use the hyperparameters' names, `epochs` and `start` only")
    if not (vars(method).get("__doc__") or "").strip():
        yield Finding("about", f"{method.__name__} has no docstring", "say in one line what it does", "note")
    for name, (_, default) in known.items():
        if default is not None and not callable(default) and type(default) not in (int, float, str, bool, tuple):
            reason = f"the default {name}={default!r} is a {type(default).__name__}, which no study file can write"
            yield Finding("hyperparameters", reason, "use a number, a string, a bool, a tuple or None")


def check_construction(case: Case, small: SmallRun) -> Iterator[Finding]:
    """Check that everything a method has is registered, seeded and trained."""
    method = small.method
    yield from check_receive(case, method)
    again = case.start().method
    ours = method.state_dict()
    if name := first_change(ours, again.state_dict()):
        yield Finding(
            "seed",
            f"{name} differs between two instances of one seed",
            "draw random numbers from torch's global generators or from `generator(purpose)` only",
        )
    with patch.object(build_method, "CONSTRUCTION", "another stream"):
        drawn = [name for name, value in case.start().method.state_dict().items() if not same(value, ours[name])]
    if drawn:
        yield Finding(
            "seed",
            f"__init__ draws {', '.join(drawn[:3])}{' …' if len(drawn) > 3 else ''} from global generators, which "
            "follow the run's seed",
            "nothing, if you train by the harness; only `generator(purpose)` follows the seed elsewhere, too",
            "note",
        )
    if [(n.seed, n.epoch, n.level) for n in method.needs()] != [(n.seed, n.epoch, n.level) for n in again.needs()]:
        yield Finding("needs", "`needs` gives other runs at each call", "derive them from `seed` and hyperparameters")
    yield from check_seeds(case, method)
    yield from check_registration(method)
    if small.optimizer is not None:
        yield from check_groups(method, small)


def check_seeds(case: Case, method: Method) -> Iterator[Finding]:
    """Check that what a method needs and draws differs between seeds."""
    other = case.start(1).method
    if method.needs() and [n.seed for n in method.needs()] == [n.seed for n in other.needs()]:
        yield Finding(
            "needs",
            "runs of different seeds start from the same runs: their results are no independent repetitions",
            "derive the seeds from self.seed, as in Need(self.seed * K + k)",
            "warning",
        )
        return
    theirs = dict(other.named_parameters())
    same_draws = [
        name
        for name, p in method.named_parameters()
        if p.is_floating_point() and p.numel() > 1 and p.flatten()[0] != p.mean() and torch.equal(p, theirs[name])
    ]
    if same_draws:
        yield Finding(
            "seed",
            f"{same_draws[0]} begins with the same numbers whatever the seed of the run",
            "seed no generator in __init__: what it draws follows the run's seed by itself",
            "warning",
        )
    for part in (method, other):
        part.begin_epoch(0)
    before = {name: value for name, value in plain_attributes(method).items() if is_generator(value)}
    unseeded = [name for name, value in before.items() if plain_attributes(other).get(name) == value]
    if unseeded:
        yield Finding(
            "seed",
            f"the generator {unseeded[0]} gives the same numbers whatever the seed of the run",
            "begin it in `begin_epoch` by `generator(purpose)`",
            "warning",
        )


def is_generator(value: Any) -> bool:
    """Return whether `comparable` made a value of a generator of random numbers."""
    return isinstance(value, tuple) and value[:1] == ("generator",)


def check_receive(case: Case, method: Method) -> Iterator[Finding]:
    """Check that a method which starts from other runs takes something of each of their states."""
    needs = method.needs()
    for i, need in enumerate(needs):
        if not first_change(case.start(moved=i).method.state_dict(), method.state_dict()):
            yield Finding(
                "receive",
                f"`receive` takes nothing of the state of {need}",
                "load all states; the names of a network's tensors in them begin with `net.`",
            )
            return


def check_registration(method: Method) -> Iterator[Finding]:
    """Check that no module or parameter is kept where torch does not see it."""
    registered = {id(p) for p in method.parameters()}
    for part in methods_within(method):
        for name, value in vars(part).items():
            for hidden in hidden_parameters(value):
                if id(hidden) not in registered:
                    yield Finding(
                        "state",
                        f"{type(part).__name__}.{name} keeps parameters in a plain container, so that no checkpoint "
                        "holds them",
                        "use nn.ModuleList, nn.ModuleDict or nn.ParameterList; of copies of the method inside, as in "
                        "nn.ModuleList(self.copy_inner() for _ in range(K))",
                    )
                    break


def hidden_parameters(value: Any) -> Iterator[nn.Parameter]:
    """Yield the parameters inside a plain list, tuple or dict."""
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    for item in items:
        if isinstance(item, nn.Parameter):
            yield item
        elif isinstance(item, nn.Module):
            yield from item.parameters()


def check_groups(method: Method, small: SmallRun) -> Iterator[Finding]:
    """Check that the optimizer has the parameters that get gradients, and no other."""
    own = {id(p): name for name, p in method.named_parameters()}
    grouped = {id(p) for group in method.param_groups() for _, p in group["params"]}
    if foreign := grouped - own.keys():
        yield Finding(
            "param_groups",
            f"{len(foreign)} tensors are not parameters of the method, so that no checkpoint holds them",
            "make them nn.Parameter attributes in __init__",
        )
    left_out = [
        name for key, name in own.items() if key not in grouped and dict(method.named_parameters())[name].requires_grad
    ]
    if left_out:
        yield Finding(
            "param_groups",
            f"{', '.join(left_out[:3])}{' …' if len(left_out) > 3 else ''} require gradients and are in no group",
            "add them to a group, or call requires_grad_(False) if they stay as they are",
        )
