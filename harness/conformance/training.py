"""Checks of training: the same seed gives the same bits, also if a run is interrupted."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from unittest.mock import patch

from torch import Tensor

from data import dataset_shape
from harness.conformance.attributes import changed, plain_attributes
from harness.conformance.finding import Finding, failures
from harness.conformance.small_run import DATASET, Case, SmallRun, first_change, same
from methods import Batch, Recipe
from methods.core.wrapper import Wrapper, methods_within

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


def check_criterion(case: Case) -> Iterator[Finding]:
    """Check that the recipe's criterion gets as many logits as there are classes."""
    small, original = case.start(), Recipe.criterion
    shapes: set[tuple[int, ...]] = set()

    def criterion(recipe: Recipe, logits: Tensor, y: Tensor) -> Tensor:
        shapes.add(tuple(logits.shape[1:]))
        return original(recipe, logits, y)

    with patch.object(Recipe, "criterion", criterion):
        small.train(1)
    classes = dataset_shape(DATASET.name).classes
    if wrong := shapes - {(classes,)}:
        yield Finding(
            "loss",
            f"`criterion` gets logits of shape (B, {', '.join(map(str, min(wrong)))}) for {classes} classes: only the "
            "first of them are compared with the labels",
            "override `loss`, too: take the output apart as `predict_with` does, and average the heads' losses",
        )


def check_repetition(case: Case, whole: SmallRun) -> Iterator[Finding]:
    """Check that training again gives the same bits, from the beginning and from checkpoints."""
    again = case.trained()
    if name := first_difference(whole, again):
        yield Finding(
            "seed",
            f"two trainings with one seed differ in {name}",
            "draw random numbers from `generator(purpose)` or from the global generators, never from the clock or an "
            "unseeded generator; and let `predict` change no state",
        )
        return
    if epochs := whole.method.epochs:
        tries = {epochs // 3: "", epochs - 1: "", epochs // 2: "used"}  # before and after a phase of its own begins
        for done, used in tries.items():
            instance, how = (again, "an instance that was used before") if used else (case.start(), "a new instance")
            found = list(check_resumed(whole, instance, done, how))
            yield from found
            if failures(found):
                return  # the others would say the same


def check_rate(case: Case) -> Iterator[Finding]:
    """Check that the learning rate depends on the position in training alone."""
    method = case.start().method
    positions = [i / 4 for i in range(4 * method.epochs)]
    rates = [method.lr(position) for position in positions]
    for part in methods_within(method):
        part.epoch = method.epochs - 1
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
        place, one, other = first_differing(name, ours.get(name), theirs.get(name))
        log = False
        if isinstance(one, list) and isinstance(other, list) and one and other:
            log = len(one) != len(other) and one[-1] == other[-1]
        yield Finding(
            "resume",
            f"after {epochs + 1} epochs the attribute {place} is {shown(one)}; if the run was resumed an epoch before, "
            f"it is {shown(other)}",
            "nothing, if it is a log that nothing reads; otherwise " + RESUME if log else RESUME,
            "warning" if log else "failure",
        )
    resumed.finish()
    if name := first_difference(whole, resumed):
        yield Finding("resume", f"resumed after epoch {epochs} in {how}, the run ends with another {name}", RESUME)


def first_differing(name: str, one: object, other: object) -> tuple[str, object, object]:
    """Return the place of the first entry in which two values of an attribute differ, and both entries.

    Args:
        name: of the attribute.
        one: a value, in the form of `comparable`.
        other: another one.
    """
    if isinstance(one, dict) and isinstance(other, dict) and (keys := changed(one, other)):
        key = keys[0]
        return first_differing(f"{name}[{key}]", one.get(key, "missing"), other.get(key, "missing"))
    return name, one, other


def shown(value: object) -> str:
    """Return a short text of a value in the form of `comparable`."""
    if isinstance(value, tuple) and value and value[0] in ("tensor", "array"):
        return f"{value[0]} {value[1]} that begins {str(value[2])[:20]} …"
    text = "a generator in another state" if isinstance(value, tuple) and value[:1] == ("generator",) else repr(value)
    return text if len(text) < 40 else f"{text[:36]} …"


def first_difference(one: SmallRun, other: SmallRun) -> str:
    """Return the name of the first part of two states, or "prediction", in which two finished runs differ; or ""."""
    if name := first_change(one.method.state_dict(), other.method.state_dict()):
        return name
    x, _ = one.test_batch()
    return "" if same(one.predict(x), other.predict(x)) else "prediction"


def check_copies(case: Case) -> Iterator[Finding]:
    """Check that copies which a wrapper makes of the method inside lack nothing that `watch` changes in it."""
    small = case.start()
    method, original = small.method, small.method.watch
    pairs = [
        (part, copy)
        for part in methods_within(method)
        if isinstance(part, Wrapper) and not part.collected
        for copy in methods_within(part)
        if copy.collected and copy.state_dict().keys() == part.inner.state_dict().keys()
    ]
    behind: list[str] = []

    def watch(held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        before = [deepcopy(part.inner.state_dict()) for part, _ in pairs]
        original(held_out, training)
        for (part, copy), was, began in zip(pairs, before, at_beginning, strict=True):
            now, kept = part.inner.state_dict(), copy.state_dict()
            moved = [name for name, value in now.items() if not same(value, was[name])]
            if moved and first_change(began, kept) and all(same(kept[name], was[name]) for name in moved):
                behind.append(type(part).__name__)

    method.watch = watch  # type: ignore[method-assign]
    for epoch in range(method.epochs if method.watches else 0):
        at_beginning = [deepcopy(copy.state_dict()) for _, copy in pairs]
        small.train(epoch + 1)
    if behind:
        yield Finding(
            "watch",
            f"{behind[0]} copies the method inside in `end_epoch`, and `watch` changes that method afterwards: the "
            "copy is what it was before",
            "copy again in `watch`, after super().watch(held_out, training)",
        )
