"""The interface of a task: training, validation and test examples of a dataset, in minibatches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Generator, Tensor

Part = Literal["train", "validation", "test"]


class DatasetShape(NamedTuple):
    """Sizes of a dataset, from which networks and schedules are built.

    Attributes:
        in_channels: Channels of the images; None for text.
        image_size: Side of the images, in pixels; None for text.
        classes: Number of classes; for text, of symbols.
        train: Number of training examples without the held-out ones: images, or segments of text.
    """

    in_channels: int | None
    image_size: int | None
    classes: int
    train: int


class Minibatches(Protocol):
    """Minibatches of a task's training, validation or test examples. Each iteration is one pass over all of them."""

    @property
    def examples(self) -> int:
        """Number of examples in a pass."""
        ...

    def __len__(self) -> int:
        """Number of minibatches in a pass."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the minibatches of one pass: x (B, …) and y (B, …), on the task's device."""
        ...

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """Return minibatches of the same examples whose random orders come from another stream.

        Args:
            stream: Returns a fresh CPU generator, once a pass.
        """
        ...

    def shard(self, part: int, parts: int) -> Self:
        """Return one shard of every minibatch, in the same random order. Only the shard's examples are loaded.

        Args:
            part: Index of the shard, from 0.
            parts: Number of shards. Their sizes differ by at most one example.

        Raises:
            ValueError: If a shard of some minibatch would be empty.
        """
        ...


def shard_bounds(start: int, stop: int, part: int, parts: int) -> tuple[int, int]:
    """Return the first index of a shard of the examples start … stop − 1, and the index after its last.

    The sizes of the shards differ by at most one example.

    Args:
        start: Index of the first example.
        stop: Index after the last example.
        part: Index of the shard, from 0.
        parts: Number of shards.

    Raises:
        ValueError: If a shard would be empty.
    """
    if stop - start < parts:
        raise ValueError(
            f"a minibatch of {stop - start} examples cannot be divided into {parts} parts: take fewer, or a batch size "
            "that leaves a larger last minibatch"
        )
    return start + (stop - start) * part // parts, start + (stop - start) * (part + 1) // parts


class Task(ABC):
    """A dataset that is ready for training: images (`ImageTask`) or text (`TextTask`).

    Attributes:
        name: The dataset's name, as given to `load`.
        classes: Number of classes C; for text, of symbols. Labels are 0 … C − 1.
    """

    name: str
    classes: int

    @property
    @abstractmethod
    def shape(self) -> DatasetShape:
        """The sizes of the dataset."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the same task on `device`."""

    @abstractmethod
    def training(self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True) -> Minibatches:
        """Return minibatches of the training examples, in random order.

        Args:
            batch_size: Examples in a minibatch.
            stream: Returns a fresh CPU generator, once a pass.
            augmented: Whether examples are augmented, if the task has an augmentation.
        """

    @abstractmethod
    def part(self, part: Part, batch_size: int) -> Minibatches | None:
        """Return minibatches of all examples of a part, in order and not augmented; None if it has no examples."""
