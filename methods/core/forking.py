"""Forking: save the state that a method shares with others trained on the same trunk, and continue from it.

A trunk is the training that several methods have in common before they depart from it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from methods.core.declarations import SHARES_NOTHING, Sharing
from methods.core.method import Method

EXTRA_STATE = "_extra_state"
"""The key under which torch saves what `get_extra_state` returns."""


class TrainingSource(NamedTuple):
    """The training that a method goes through in one epoch.

    Attributes:
        method: the innermost method that decides how the epoch is trained.
        name: the name of the trunk that this method trains in the epoch; "" if it has departed from its trunk.
        depth: how many methods are around it.
    """

    method: Method
    name: str
    depth: int


def declared_sharing(method: Method) -> Sharing:
    """Return what the class of a method declares itself, without what it inherits."""
    declared: Sharing = vars(type(method)).get("sharing", SHARES_NOTHING)
    return declared


def training_source(method: Method, epoch: int) -> TrainingSource:
    """Find the training that a method goes through in an epoch, counted from 0."""
    depth = 0
    while True:
        trunk_of = declared_sharing(method).trunk
        trunk = trunk_of(method) if trunk_of and not method.needs() else None
        if trunk is None or epoch >= trunk.epochs:
            return TrainingSource(method, "", depth)
        if isinstance(trunk.of, str):
            return TrainingSource(method, trunk.of, depth)
        assert isinstance(trunk.of, Method)
        method, depth = trunk.of, depth + 1


def fork_state(method: Method, epochs: int) -> dict[str, Any]:
    """Return the part of a method's state that all runs with the same training so far share.

    Args:
        method: a method trained for `epochs` epochs, and not yet prepared.
        epochs: at least one.
    """
    source = training_source(method, epochs - 1)
    state = source.method.state_dict()
    kept = {name: value for name, value in state.items() if name == EXTRA_STATE or is_shared(source, name)}
    return {**kept, EXTRA_STATE: {"epoch": epochs - 1}} if source.name else kept


def is_shared(source: TrainingSource, name: str) -> bool:
    """Check whether an entry of a method's `state_dict` belongs to the trunk.

    Args:
        source: the training of the method.
        name: the entry's key.
    """
    own = declared_sharing(source.method)
    if source.name:
        return name.startswith(tuple(f"{part}." for part in own.state))
    return not name.startswith(tuple(f"{part}." for part in own.prepared))


def fork(method: Method, state: Mapping[str, Any], epochs: int) -> None:
    """Load the state of a trunk into a new method, which then continues as if it had trained those epochs itself.

    Args:
        method: a method that was just built.
        state: what `fork_state` returned.
        epochs: after how many epochs the state was taken.

    Raises:
        ValueError: if the state belongs to another trunk.
    """
    source = training_source(method, epochs - 1)
    wanted = fork_state(method, epochs).keys()
    if wanted != state.keys():
        differing = sorted(wanted ^ state.keys())
        raise ValueError(
            f"{type(method).__name__} cannot continue from this state after {epochs} epochs: only one of them has "
            f"{', '.join(differing[:3])}{' …' if len(differing) > 3 else ''}"
        )
    source.method.load_state_dict(state, strict=False)
    outer = method
    for _ in range(source.depth):
        outer.set_extra_state({"epoch": epochs - 1})
        trunk_of = declared_sharing(outer).trunk
        assert trunk_of is not None
        inner = trunk_of(outer).of
        assert isinstance(inner, Method)
        outer = inner
