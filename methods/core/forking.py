"""Trunks: the training that a method shares with others before it departs, and the state it is forked from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from methods.core.declarations import ALONE, Sharing
from methods.core.method import Method

EXTRA = "_extra_state"
"""The name under which torch keeps what `get_extra_state` gives."""


class TrainingSource(NamedTuple):
    """Whose training a method's is in one epoch.

    Attributes:
        method: the innermost method that is trained by its own rules.
        name: of its trunk; "" if it has departed from it.
        depth: how many methods it lies inside of.
    """

    method: Method
    name: str
    depth: int


def declared_sharing(method: Method) -> Sharing:
    """Give what the class of a method itself declares."""
    declared: Sharing = vars(type(method)).get("sharing", ALONE)
    return declared


def training_source(method: Method, epoch: int) -> TrainingSource:
    """Say whose training a method's is in an epoch, counted from 0."""
    depth = 0
    while True:
        find = declared_sharing(method).trunk
        trunk = find(method) if find and not method.needs() else None
        if trunk is None or epoch >= trunk.epochs:
            return TrainingSource(method, "", depth)
        if isinstance(trunk.of, str):
            return TrainingSource(method, trunk.of, depth)
        assert isinstance(trunk.of, Method)
        method, depth = trunk.of, depth + 1


def fork_state(method: Method, epochs: int) -> dict[str, Any]:
    """Give what any run that was the same for so many epochs goes on from: the part of the state that they share.

    Args:
        method: trained for `epochs` epochs, one or more, not yet prepared.
        epochs: how many.
    """
    source = training_source(method, epochs - 1)
    state = source.method.state_dict()
    kept = {name: value for name, value in state.items() if name == EXTRA or shares(source, name)}
    return {**kept, EXTRA: {"epoch": epochs - 1}} if source.name else kept


def shares(source: TrainingSource, name: str) -> bool:
    """Say whether an entry of a method's state is part of the trunk's."""
    own = declared_sharing(source.method)
    if source.name:
        return name.startswith(tuple(f"{part}." for part in own.state))
    return not name.startswith(tuple(f"{part}." for part in own.prepared))


def fork(method: Method, state: Mapping[str, Any], epochs: int) -> None:
    """Let a method that has just been built go on from a trunk's state, as if it had been trained so far itself.

    Args:
        method: not yet trained.
        state: what `fork_state` gave.
        epochs: after how many epochs.

    Raises:
        ValueError: if the state is another trunk's.
    """
    source = training_source(method, epochs - 1)
    wanted = fork_state(method, epochs).keys()
    if wanted != state.keys():
        differing = sorted(wanted ^ state.keys())
        raise ValueError(
            f"{type(method).__name__} cannot go on from this state after {epochs} epochs: only one of them has "
            f"{', '.join(differing[:3])}{' …' if len(differing) > 3 else ''}"
        )
    source.method.load_state_dict(state, strict=False)
    around = method
    for _ in range(source.depth):
        around.set_extra_state({"epoch": epochs - 1})
        trunk = declared_sharing(around).trunk
        assert trunk is not None
        inner = trunk(around).of
        assert isinstance(inner, Method)
        around = inner
