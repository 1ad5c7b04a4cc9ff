"""What a method says of itself before it is trained: what it needs, costs and shares."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
"""x (B, …), for images (B, C_in, H, W); y (B,), the class of each example."""


Weights = Mapping[str, Tensor]
"""Tensors by the names they have in the network; those not named are the network's own."""


class Need(NamedTuple):
    """The state of another run of the same cell that a method starts from.

    Attributes:
        seed: the other run's seed.
        epoch: its state after so many epochs, as trained; None for its finished state, prepared for prediction.
        level: its method is the one that the asking method is made of, `level` steps inwards; plain training
            where there is none. A wrapper hands the needs of its inner method on with one step more.
    """

    seed: int
    epoch: int | None = None
    level: int = 1


class Anchor(NamedTuple):
    """One of the networks from which the space of a method's weights is looked at.

    Attributes:
        weights: by the network's names; with the running statistics the network has, if it has some of its own.
        embedding: the few numbers that its weights were made from, where distances between anchors are measured in
            these; None for distances between the weights themselves.
    """

    weights: Weights
    embedding: Sequence[Tensor] | None = None


class About(NamedTuple):
    """What a reader asks about a method first; `econ list methods` prints it.

    The costs are Python expressions of the method's hyperparameters, `epochs` and `start` (T0 as a fraction of all
    epochs). Those of a method made of another one count that one's cost as 1.

    Attributes:
        family: the methods it belongs with.
        paper: author and year.
        training: examples passed forward and backward, relative to plain training.
        passes: forward passes over the training data between training and the first prediction.
        prediction: forward passes an example.
    """

    family: str
    paper: str
    training: str = "1"
    passes: str = "0"
    prediction: str = "1"


class Trunk(NamedTuple):
    """Whose training a method's is at first.

    Attributes:
        of: the method inside that is trained, by its own rules; or a name, and all methods that give the same one train
            alike where their networks, recipes and learning rates agree.
        epochs: for how many epochs that holds.
    """

    of: nn.Module | str
    epochs: int


class Sharing(NamedTuple):
    """What a method may share with other runs. It counts only where a class declares it itself: a subclass may differ.

    Attributes:
        trunk: gives the trunk of a method of the class; None if it is its own from the first epoch on.
        state: the parts of the method that a trunk with a name trains.
        prediction: hyperparameters that change nothing before `prepare`.
        prepared: parts of the method that nothing writes to before `prepare`.
    """

    trunk: Callable[[Any], Trunk] | None = None
    state: tuple[str, ...] = ("net",)
    prediction: frozenset[str] = frozenset()
    prepared: tuple[str, ...] = ()


PLAIN_TRUNK = "sgd 1"
"""The trunk of plain training, with the version of `SGD`."""


ALONE = Sharing()
"""A method that shares nothing but with runs that are trained exactly as it is."""
