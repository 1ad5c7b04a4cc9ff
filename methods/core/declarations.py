"""What a method declares about itself before training: the runs it needs, its cost, the training it shares."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
"""A minibatch: x, (B, …), for images (B, C_in, H, W); and y, (B,), the class of each example."""
Weights = Mapping[str, Tensor]
"""Parameters and buffers by the network's names; for names left out, the network uses its own tensors."""


@dataclass(frozen=True)
class PreparationData:
    """The data with which a method prepares for prediction. Each iteration is one pass over the training data.

    Attributes:
        training: batches of augmented training data.
        watched: batches of the held-out data that the method's attribute `watches` names; None if it names none.
    """

    training: Iterable[Batch]
    watched: Iterable[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Pass over the training data."""
        return iter(self.training)

    @property
    def held_out(self) -> Iterable[Batch]:
        """The held-out data, not augmented; each iteration is one pass over it.

        Raises:
            ValueError: if the method does not ask for held-out data.
        """
        if self.watched is None:
            raise ValueError('there is no held-out data: a method that reads it says so by `watches = "validation"`')
        return self.watched


class DataSizes(NamedTuple):
    """The sizes of the data of a run.

    Attributes:
        in_channels: channels of the images; None for text.
        image_size: side of the images, in pixels; None for text.
        classes: number of classes; for text, of symbols.
        examples: number of training examples, without those held out: images, or segments of text.
    """

    in_channels: int | None
    image_size: int | None
    classes: int
    examples: int


class Need(NamedTuple):
    """The state of another run of the same cell, from which a method starts.

    Attributes:
        seed: the other run's seed.
        epoch: after how many epochs of the other run its state is taken, from 1 to all of them. The state then holds
            what training has made so far, not prepared for prediction: while the other run trains plainly, only its
            network, under the names `net.…`; afterwards, all that its method trains. None: the finished state, prepared
            for prediction.
        level: which method the other run trains. Level 1 is the method inside the asking one, level 2 the method inside
            that, and so on; plain training if there is none. A wrapper passes on its inner method's needs one level
            higher.
    """

    seed: int
    epoch: int | None = None
    level: int = 1


class Anchor(NamedTuple):
    """One of the networks that span the part of weight space to plot.

    Attributes:
        weights: by the network's names, with the running statistics if the network has its own.
        embedding: the few numbers from which the weights are generated; distances between anchors are then measured
            between embeddings. None: between weights.
    """

    weights: Weights
    embedding: Sequence[Tensor] | None = None


class About(NamedTuple):
    """A method's family, paper and cost, as printed by `econ list methods`.

    A cost is a Python expression of the method's hyperparameters, of `epochs`, and of `start` (T0 as a fraction of all
    epochs). The expression of a wrapper counts the cost of its inner method as 1.

    Attributes:
        family: the group of methods under which it is listed.
        paper: author and year.
        training: examples passed forward and backward, relative to plain training.
        passes: forward passes over the training data without a backward one, in training ("epochs" for one in each
            epoch) and before the first prediction.
        prediction: forward passes per example.
    """

    family: str
    paper: str
    training: str = "1"
    passes: str = "0"
    prediction: str = "1"


class Trunk(NamedTuple):
    """The training that a method has in common with others at first.

    Attributes:
        of: either the method inside, if it is trained by its own rules; or the name of a trunk. All methods that name
            the same trunk train identically, if their networks, recipes and learning rates agree.
        epochs: for how many epochs this holds.
    """

    of: nn.Module | str
    epochs: int


class Sharing(NamedTuple):
    """Which training a method shares with other runs; a subclass does not inherit it, as it may train differently.

    Attributes:
        trunk: a function that returns the trunk of a method of this class. None: the method has no trunk.
        state: the submodules of the method that a named trunk trains.
        prediction: names of the hyperparameters that change nothing before `prepare`.
        prepared: the submodules that nothing writes to before `prepare`.
    """

    trunk: Callable[[Any], Trunk] | None = None
    state: tuple[str, ...] = ("net",)
    prediction: frozenset[str] = frozenset()
    prepared: tuple[str, ...] = ()


PLAIN_TRUNK = "sgd 1"
"""The name of the trunk of plain training, which ends in the version of `SGD`."""

SHARES_NOTHING = Sharing()
"""The declaration of a method that shares training only with runs of exactly the same training."""
