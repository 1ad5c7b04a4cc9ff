"""Checks of what a class declares of its training: a trunk that others share, members that run as one batch."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import torch
from optuna.distributions import BaseDistribution
from torch import Tensor

from harness.conformance.attributes import is_of_users
from harness.conformance.finding import Finding
from harness.conformance.small_run import Case, SmallRun, same
from harness.conformance.training import first_difference
from harness.costs.expected_cost import inner_method
from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.method_expression import MethodSpec
from harness.store.checkpoint import load_optimizer_state, optimizer_state
from methods import Method
from methods.core.declarations import PLAIN_TRUNK
from methods.core.forking import declared_sharing, fork, fork_state
from methods.core.late_phase import LatePhase

ALWAYS = 1 << 20
"""A minibatch size up to which members run as one batch that no minibatch exceeds."""


def check_trunk(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that a method which declares a trunk goes on from one with the same bits."""
    method = whole.method
    trunk_of = declared_sharing(method).trunk
    trunk = trunk_of(method) if trunk_of and not method.needs() else None
    if trunk is None or not trunk.epochs:
        return
    inner = inner_method(case.spec, case.methods) if isinstance(trunk.of, Method) else None
    recipe = trunk.of.recipe if isinstance(trunk.of, Method) else method.recipe
    if isinstance(trunk.of, str) and trunk.of != PLAIN_TRUNK:
        return  # the trunk of a method of the project's own, which its tests look at
    epochs = min(trunk.epochs, method.epochs)
    other, forked = replace(case, spec=inner or MethodSpec(name="sgd"), recipe=recipe).start(), case.start()
    other.method.lr = method.lr  # type: ignore[method-assign]
    other.method.resets_optimizer = method.resets_optimizer  # type: ignore[method-assign]
    other.train(epochs)
    fork(forked.method, fork_state(other.method, epochs), epochs)
    assert other.optimizer is not None
    assert forked.optimizer is not None
    load_optimizer_state(forked.optimizer, optimizer_state(other.optimizer))
    forked.epoch = epochs
    forked.finish()
    if name := first_difference(whole, forked):
        yield Finding(
            "sharing",
            f"forked from {other.run.method} after {epochs} epochs, it ends with another {name} than trained alone",
            "declare no `sharing`, or a trunk that ends where the method departs from that training",
        )


def check_prepared(whole: SmallRun) -> Iterator[Finding]:
    """Check that nothing writes, before `prepare`, to the submodules that are declared to be written to by it alone."""
    parts = tuple(f"{name}." for name in declared_sharing(whole.method).prepared)
    before, after = whole.snapshots[0].saved[0], whole.snapshots[-1].saved[0]
    for name, value in before.items():
        if parts and name.startswith(parts) and not same(value, after[name]):
            yield Finding(
                "sharing",
                f"training writes to {name}, which `sharing` declares to be written to by `prepare` alone: runs that "
                "go on from a trunk would lack it",
                "leave this submodule out of `prepared`",
            )
            return


def check_prediction_hyperparameters(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that hyperparameters which are declared to change the prediction only do not change training."""
    declared = declared_sharing(whole.method)
    parts = tuple(f"{name}." for name in declared.prepared)
    known = hyperparameters(type(whole.method))
    for name in sorted(declared.prediction):
        if name not in known:
            yield Finding("sharing", f"`prediction` names {name!r}, which is no hyperparameter", "correct the name")
            continue
        given = case.spec.hyperparameters.get(name, known[name][1])
        tried = False
        for value in other_values(given, known[name][0], type(whole.method).space.get(name)):
            spec = case.spec.model_copy(update={"hyperparameters": {**case.spec.hyperparameters, name: value}})
            try:
                other = replace(case, spec=spec).start()
            except ValueError:  # this value does not go with the others
                continue
            tried = True
            other.train(other.method.epochs)
            now, was = other.method.state_dict(), whole.snapshots[-1].saved[0]
            moved = [
                key
                for key, tensor in was.items()
                if not (parts and key.startswith(parts)) and key in now and not same(tensor, now[key])
            ]
            if moved or other.method.epochs != whole.method.epochs:
                yield Finding(
                    "sharing",
                    f"`sharing` declares that {name} changes nothing before `prepare`, but with {name}={value!r} "
                    f"training ends with another {moved[0] if moved else 'number of epochs'}",
                    f"leave {name} out of `prediction`",
                )
                break
        if not tried and is_of_users(type(whole.method)):
            yield Finding(
                "sharing",
                f"`sharing` declares that {name} changes nothing before `prepare`, and there is no other value to try",
                f"give its values in `space`, or as a Literal, or leave {name} out of `prediction`",
                "warning",
            )


def other_values(value: Any, kind: Any, distribution: BaseDistribution | None) -> list[Any]:
    """List values of a hyperparameter that differ from a given one: those of its type and of its search space."""
    choices = [*get_args(kind), *getattr(distribution, "choices", ())]
    choices += [getattr(distribution, end) for end in ("low", "high") if hasattr(distribution, end)]
    if isinstance(value, bool):
        choices.append(not value)
    elif isinstance(value, int | float):
        choices += [value + 1, value * 0.5 if isinstance(value, float) else value - 1]
    return [each for each in dict.fromkeys(filter(is_value, choices)) if each != value][:6]


def is_value(value: Any) -> bool:
    """Return whether a study could write a value."""
    return value is None or isinstance(value, bool | int | float | str)


def check_fusing(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that members which may run as one batch train and predict as they do one by one."""
    if not (isinstance(whole.method, LatePhase) and vars(type(whole.method)).get("fusible", False)):
        return
    one_by_one, fused = (train_last_epoch(case, whole, fuse_up_to) for fuse_up_to in (0, ALWAYS))
    for name, value in one_by_one.items():
        if not torch.allclose(fused[name], value, rtol=1e-3, atol=1e-4):
            yield Finding(
                "fusing",
                f"`fusible` is True, but members that run as one batch end an epoch with another {name}",
                "remove `fusible = True`; the docstring of `LatePhase` says what it promises",
            )
            return


def train_last_epoch(case: Case, whole: SmallRun, fuse_up_to: int) -> dict[str, Tensor]:
    """Train the last epoch with a bound for fusing; return the floating-point state, and the prediction."""
    small = case.start()
    small.method.fuse_up_to = fuse_up_to
    epochs = small.method.epochs
    small.restore(whole.snapshots[epochs - 1].saved, epochs - 1)
    small.finish()
    state = {name: value for name, value in small.method.state_dict().items() if isinstance(value, Tensor)}
    return {name: value for name, value in state.items() if value.is_floating_point()} | {
        "prediction": small.predict(small.test_batch()[0])
    }
