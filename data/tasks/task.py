"""What a task is: examples in parts to train, choose and test on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Generator, Tensor

Part = Literal["train", "validation", "test"]


class DatasetShape(NamedTuple):
    """What networks and schedules must know about a dataset.

    Attributes:
        in_channels: channels of the images; None for text.
        image_size: their side, in pixels; None for text.
        classes: the number of classes, or of symbols.
        train: training examples, without those held out: images, or segments of text.
    """

    in_channels: int | None
    image_size: int | None
    classes: int
    train: int


class Minibatches(Protocol):
    """Minibatches of one part of a task; each iteration is one pass over it."""

    @property
    def examples(self) -> int:
        """Examples of a pass."""
        ...

    def __len__(self) -> int:
        """Minibatches of a pass."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: x (B, …) and y (B, …), on the task's device."""
        ...

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """The same examples in other random orders, each pass a function of a fresh CPU generator."""
        ...

    def shard(self, part: int, parts: int) -> Self:
        """One of several parts of every minibatch, in the same random order; only its examples are made.

        Args:
            part: Which one, from 0.
            parts: How many there are; their sizes differ by one example at most.

        Raises:
            ValueError: If a part of some minibatch would be empty.
        """
        ...


def shard_bounds(start: int, stop: int, part: int, parts: int) -> tuple[int, int]:
    """Where one of several parts of some examples starts and stops; their sizes differ by one at most.

    Raises:
        ValueError: If a part would be empty.
    """
    if stop - start < parts:
        raise ValueError(
            f"a minibatch of {stop - start} examples cannot be divided into {parts} parts: take fewer, or a batch size "
            "that leaves a larger last minibatch"
        )
    return start + (stop - start) * part // parts, start + (stop - start) * (part + 1) // parts


class Task(ABC):
    """A dataset ready to train on: images (`ImageTask`) or text (`TextTask`).

    Attributes:
        name: The dataset's name, as it was asked for.
        classes: Number of classes C, or of symbols; labels are 0 … C − 1.
    """

    name: str
    classes: int

    @property
    @abstractmethod
    def shape(self) -> DatasetShape:
        """What networks and schedules must know."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same task on `device`."""

    @abstractmethod
    def training(self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True) -> Minibatches:
        """Minibatches to train on, in random order.

        Args:
            batch_size: Examples a minibatch.
            stream: Returns a fresh CPU generator, once a pass.
            augmented: Whether examples are changed at random, where the task does that.
        """

    @abstractmethod
    def part(self, part: Part, batch_size: int) -> Minibatches | None:
        """All examples of a part, once each, in order and unchanged; None if there are none."""
