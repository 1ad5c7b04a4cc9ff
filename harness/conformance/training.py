"""Checks of training: the same seed gives the same bits, also if a run is interrupted."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from harness.conformance.attributes import changed, plain_attributes
from harness.conformance.finding import Finding
from harness.conformance.small_run import Case, SmallRun, first_change, same
from harness.parsing.method_expression import MethodSpec
from harness.store.checkpoint import load_optimizer_state, optimizer_state
from methods.core.declarations import PLAIN_TRUNK
from methods.core.forking import declared_sharing, fork, fork_state

RESUME = (
    "keep it in a buffer (register_buffer, NamedBuffers), or compute it from the epoch in `begin_epoch`; begin a "
    "generator there anew, by `generator(purpose)`; use no optimizer but the given one"
)
STRUCTURE = "create every parameter and buffer in __init__, and change only their values later"


def check_structure(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that training has changed no names or shapes, and left numbers."""
    before, after = (small.method.state_dict() for small in (case.start(), whole))
    added, removed = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    if added or removed:
        yield Finding("structure", f"training adds {added[:3]} and removes {removed[:3]} of the state", STRUCTURE)
    for name, value in after.items():
        if not isinstance(value, Tensor):
            continue
        if name in before and before[name].shape != value.shape:
            yield Finding("structure", f"{name} changes its shape from {tuple(before[name].shape)}", STRUCTURE)
        if value.is_floating_point() and not value.isfinite().all() and (before[name].isfinite().all()):
            yield Finding("training", f"{name} is not finite after {whole.epoch} epochs", "look at the learning rate")


def check_repetition(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that training again gives the same bits, from the beginning and from checkpoints."""
    again = case.trained()
    if name := first_difference(whole, again):
        yield Finding(
            "seed",
            f"two trainings with one seed differ in {name}",
            "draw random numbers from `generator(purpose)` or from the global generators, never from the clock or an "
            "unseeded generator",
        )
        return
    if epochs := whole.method.epochs:
        yield from check_resumed(whole, case.start(), epochs // 3, "a new instance")
        yield from check_resumed(whole, again, epochs - 1, "an instance that was used before")


def check_sharing(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that a method which declares a trunk of plain training goes on from one with the same bits."""
    method = whole.method
    trunk_of = declared_sharing(method).trunk
    trunk = trunk_of(method) if trunk_of and not method.needs() else None
    if trunk is None or trunk.of != PLAIN_TRUNK or not trunk.epochs:
        return
    plain, forked = replace(case, spec=MethodSpec(name="sgd")).start(), case.start()
    plain.method.lr = method.lr  # type: ignore[method-assign]
    plain.train(trunk.epochs)
    fork(forked.method, fork_state(plain.method, trunk.epochs), trunk.epochs)
    assert plain.optimizer is not None
    assert forked.optimizer is not None
    load_optimizer_state(forked.optimizer, optimizer_state(plain.optimizer))
    forked.epoch = trunk.epochs
    forked.finish()
    if name := first_difference(whole, forked):
        yield Finding(
            "sharing",
            f"forked from plain training after {trunk.epochs} epochs, it ends with another {name} than trained alone",
            "declare no `sharing`, or one that ends where the method departs from plain training",
        )


def check_rate(case: Case) -> Iterator[Finding]:
    """Check that the learning rate depends on the position in training alone."""
    method = case.start().method
    positions = [i / 4 for i in range(4 * method.epochs)]
    rates = [method.lr(position) for position in positions]
    if [method.lr(position) for position in reversed(positions)] != rates[::-1]:
        yield Finding("lr", "`lr` gives another rate when it is asked again", "compute it from its argument alone")


def check_resumed(whole: SmallRun, resumed: SmallRun, epochs: int, how: str) -> Iterator[Finding]:
    """Check that a run which goes on from a checkpoint ends with the same bits, and lacks nothing on the way.

    Args:
        whole: the run that was not interrupted.
        resumed: the instance that goes on.
        epochs: after how many epochs the checkpoint was taken.
        how: what the instance is, for messages.
    """
    resumed.restore(whole.snapshots[epochs].saved, epochs)
    resumed.train(epochs + 1)
    ours, theirs = whole.snapshots[epochs + 1].attributes, plain_attributes(resumed.method)
    for name in changed(ours, theirs):
        yield Finding(
            "resume",
            f"after {epochs + 1} epochs the attribute {name} is {shown(ours.get(name))}; if the run was resumed an "
            f"epoch before, it is {shown(theirs.get(name))}",
            RESUME,
        )
    resumed.finish()
    if name := first_difference(whole, resumed):
        yield Finding("resume", f"resumed after epoch {epochs} in {how}, the run ends with another {name}", RESUME)


def shown(value: object) -> str:
    """Return a short text of a value."""
    text = repr(value[0] if isinstance(value, tuple) and value and value[0] in ("tensor", "generator") else value)
    return text if len(text) < 40 else f"{text[:36]} …"


def first_difference(one: SmallRun, other: SmallRun) -> str:
    """Return the name of the first part of two states, or "prediction", in which two finished runs differ; or ""."""
    if name := first_change(one.method.state_dict(), other.method.state_dict()):
        return name
    x, _ = one.test_batch()
    return "" if same(one.predict(x), other.predict(x)) else "prediction"
