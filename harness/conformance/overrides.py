"""Checks that what a method overrides is called."""

from collections import Counter
from collections.abc import Iterator
from functools import wraps
from inspect import unwrap
from typing import Any

import torch

from harness.conformance.attributes import is_of_users
from harness.conformance.finding import Finding
from harness.conformance.small_run import Case
from harness.parsing.plugin_sources import is_users_file
from methods import Method
from methods.core.wrapper import Wrapper, methods_within

CALLERS = {"loss": "update", "forward": "update", "members": "predict", "predict_with": "predict"}
"""Hooks, each with the hook that must call it."""
PASSED_ON = ("begin_epoch", "end_epoch", "watch")
"""Hooks that a wrapper must pass on to the method inside; its own `update` may take the step itself."""


def check_overrides(case: Case) -> Iterator[Finding]:
    """Check that the hooks which the user's classes override are called where their results would count.

    A class that overrides the caller too is left alone: it may do without.
    """
    yield from check_epoch(case)
    small = case.start()
    called: set[tuple[int, str]] = set()
    method = small.method  # others are inside of it, or copies, which may have no part in training or in prediction
    watched = [
        (method, hook) for hook, caller in CALLERS.items() if overrides(method, hook) and not overrides(method, caller)
    ]
    for part, hook in watched:
        record(part, hook, called)
    inside = [
        (part, hook)
        for part in methods_within(small.method)
        if isinstance(part, Wrapper) and not part.collected
        for hook in PASSED_ON
        if overrides(part, hook) and (hook != "watch" or part.inner.watches)
    ]
    for part, hook in inside:
        record(part.inner, hook, called)
    asked: Counter[tuple[int, str]] = Counter()
    for part in methods_within(small.method):
        count_generators(part, asked)
    small.train(1)
    for purpose in dict.fromkeys(purpose for (_, purpose), count in asked.items() if count > 1):
        yield Finding(
            "generator",
            f"generator({purpose!r}) is asked for more than once in an epoch, and gives the same numbers each time",
            "keep it as an attribute that `begin_epoch` sets anew, unless that is what you want",
            "warning",
        )
    for part, hook in inside:
        if (id(part.inner), hook) not in called:
            name = type(part).__name__
            yield Finding(
                "hooks",
                f"{name}.{hook} never calls `{hook}` of the method inside",
                f"call super().{hook}(…) in it",
            )
    small.prepare()
    small.predict(small.test_batch()[0])
    for part, hook in watched:
        if (id(part), hook) not in called:
            name = type(part).__name__
            yield Finding(
                "hooks",
                f"{name} overrides `{hook}`, and its `{CALLERS[hook]}` never calls it: the override has no effect",
                f"override `{CALLERS[hook]}` instead",
            )


def check_epoch(case: Case) -> Iterator[Finding]:
    """Check that an override of `begin_epoch` lets the method know the epoch."""
    method = case.start().method
    method.begin_epoch(1)
    for part in methods_within(method):
        if part.epoch != 1 and not part.collected and overrides(part, "begin_epoch"):
            yield Finding(
                "hooks",
                f"{type(part).__name__}.begin_epoch does not set the epoch: `generator` repeats its numbers in every "
                "epoch, and `begin` is never called",
                "begin it with super().begin_epoch(epoch)",
            )


def overrides(part: Method, hook: str) -> bool:
    """Return whether a class of the user's overrides a hook."""
    owner = next(cls for cls in type(part).__mro__ if hook in vars(cls))
    code = getattr(unwrap(vars(owner)[hook]), "__code__", None)  # also of a decorated one
    return code is not None and is_users_file(code.co_filename)


def count_generators(part: Method, asked: Counter[tuple[int, str]]) -> None:
    """Count in `asked` how often a method of the user's asks for the generator of a purpose."""
    original = part.generator
    if not is_of_users(type(part)):
        return

    def counting(purpose: str) -> torch.Generator:
        asked[id(part), purpose] += 1
        return original(purpose)

    part.generator = counting  # type: ignore[method-assign]


def record(part: Method, hook: str, called: set[tuple[int, str]]) -> None:
    """Note in `called` that a method's hook was called."""
    original = getattr(part, hook)

    @wraps(original)
    def noting(*arguments: Any, **options: Any) -> Any:
        called.add((id(part), hook))
        return original(*arguments, **options)

    setattr(part, hook, noting)
