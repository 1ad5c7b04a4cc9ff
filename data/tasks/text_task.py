"""Text: the task of predicting every next symbol, in lanes that a network reads side by side."""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from data.tasks.task import DatasetShape, Part, Task, shard_bounds

SEGMENT = 100
"""Symbols through which gradients flow back. The late-phase paper does not state it; this is our choice."""
WINDOW_LENGTH = 1024
"""Symbols that a network reads at once when it is tested."""
CONTEXT_LENGTH = 256
"""Of these, the first ones, which only lead up to the others; the first window of a text has none to lead up to."""


class TextSegments:
    """Minibatches to train on: segments of a text, each the continuation of the one before it in its lane.

    The text is cut into as many lanes of equal length as a minibatch has rows, and the lanes into segments. A network
    that carries its state from one minibatch to the next so reads each lane as one text, while gradients flow back
    to the beginning of a segment only (truncated back-propagation through time). A pass begins at a random place, one
    of a segment's first symbols, so that segments differ from pass to pass; symbols at the text's very beginning and
    end, fewer than a segment and a minibatch together, are left out of it.

    Args:
        text: (N,) uint8, the symbols' numbers.
        lanes: Rows of a minibatch.
        segment: Symbols of a segment; the last one of a lane may have fewer.
        stream: Returns a fresh CPU generator, once a pass.

    Raises:
        ValueError: If the text is too short.
    """

    def __init__(self, text: Tensor, lanes: int, segment: int, stream: Callable[[], Generator]) -> None:
        self.length = (len(text) - segment) // lanes  # of a lane, the same wherever a pass begins
        if self.length < 1:
            raise ValueError(
                f"a text of {len(text)} symbols is too short for {lanes} lanes, one a row of a minibatch, and segments "
                f"of {segment} symbols"
            )
        self._text, self._lanes, self._segment, self._stream = text, lanes, segment, stream
        self._rows = (0, lanes)

    @property
    def examples(self) -> int:
        """Segments of a pass."""
        return (self._rows[1] - self._rows[0]) * len(self)

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """The same segments with other randomness; the text is not copied."""
        other = copy(self)
        other._stream = stream
        return other

    def shard(self, part: int, parts: int) -> Self:
        """One of several parts of every minibatch: some of the lanes, the same ones throughout.

        Raises:
            ValueError: If there are fewer lanes than parts.
        """
        other = copy(self)
        other._rows = shard_bounds(*self._rows, part, parts)
        return other

    def __len__(self) -> int:
        """Minibatches of a pass."""
        return len(range(0, self.length, self._segment))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: symbols x and the next ones y, both int64 (B, T)."""
        first = int(torch.randint(self._segment, (), generator=self._stream()))
        lanes = self._text[first : first + self._lanes * self.length].view(self._lanes, self.length)
        following = self._text[first + 1 : first + 1 + self._lanes * self.length].view(self._lanes, self.length)
        own = slice(*self._rows)
        for x, y in zip(torch.split(lanes, self._segment, 1), torch.split(following, self._segment, 1), strict=True):
            yield x[own].long(), y[own].long()


class TextWindows:
    """Minibatches to test on: windows of a text, each read from an empty state.

    Every symbol but the text's first is predicted exactly once. A window repeats the last symbols of the one before
    it, to lead up to those that it predicts; what is not to be predicted has the label −1.

    Args:
        text: (N,) uint8, N at least 2.
        rows: Windows of a minibatch.
        window: Symbols of a window; all have the same number.
        context: How many of them lead up to the others.

    Raises:
        ValueError: If the text holds nothing to predict.
    """

    def __init__(self, text: Tensor, rows: int, window: int = WINDOW_LENGTH, context: int = CONTEXT_LENGTH) -> None:
        if len(text) < 2:
            raise ValueError(f"a text of {len(text)} symbols holds no symbol to predict")
        self._text, self._rows, self.window = text, rows, min(window, len(text) - 1)
        self.examples = len(text) - 1
        # The end of each window: the first predicts all of its symbols, the others those behind their context.
        self._stops = [*range(self.window, self.examples, max(window - context, 1)), self.examples]

    def __len__(self) -> int:
        """Minibatches of a pass."""
        return -(-len(self._stops) // self._rows)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: symbols x and the next ones y, −1 where not predicted, both int64 (B, T)."""
        along = torch.arange(self.window, device=self._text.device)
        stops = torch.tensor(self._stops, device=self._text.device)
        predicted = torch.cat([stops.new_zeros(1), stops[:-1]])  # up to where, before each window
        for stop, done in zip(torch.split(stops, self._rows), torch.split(predicted, self._rows), strict=True):
            places = (stop - self.window)[:, None] + along  # (B, T)
            yield self._text[places].long(), self._text[places + 1].long().where(places >= done[:, None], -1)

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """Refuse: these have no randomness.

        Raises:
            ValueError: always.
        """
        raise ValueError("windows of a text have no random order")

    def shard(self, part: int, parts: int) -> Self:
        """Refuse: these are to test on, which one process does.

        Raises:
            ValueError: always.
        """
        raise ValueError("windows of a text are not divided")


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """A text ready to train on.

    Attributes:
        name: The dataset's name, as it was asked for.
        classes: Number of symbols C that occur anywhere in the text.
        symbols: Which byte each symbol is, in their order.
        train: (N,) uint8, the text to train on, as numbers of symbols.
        validation: The same, to choose on; None if there is none.
        test: The same, to test on.
        segment: Symbols through which gradients flow back.
    """

    name: str
    classes: int
    symbols: bytes
    train: Tensor
    validation: Tensor | None
    test: Tensor
    segment: int

    @property
    def shape(self) -> DatasetShape:
        """What networks and schedules must know; its examples are segments."""
        return DatasetShape(None, None, self.classes, count_segments(len(self.train), self.segment))

    def to(self, device: torch.device | str) -> Self:
        """The same task on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

    def training(self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True) -> TextSegments:
        """Segments to train on, x and y int64 (B, T); text is never augmented."""
        return TextSegments(self.train, batch_size, self.segment, stream)

    def part(self, part: Part, batch_size: int) -> TextWindows | None:
        """All of a part, in windows, x and y int64 (B, T); None if there is none. B is `batch_size` / 16 at most."""
        text = {"train": self.train, "validation": self.validation, "test": self.test}[part]
        return None if text is None else TextWindows(text, max(batch_size // 16, 1))


def count_segments(symbols: int, segment: int) -> int:
    """Count the segments of a text to train on, the last one perhaps shorter."""
    return max(-(-(symbols - segment) // segment), 1)


def make_text_task(
    name: str, content: NDArray[np.uint8], validation: int | None, train_size: int | None, segment: int | None
) -> TextTask:
    """Number the bytes of a text and divide it, as `load_text` says."""
    raw = torch.from_numpy(content)
    if len(raw) < 100:
        raise ValueError(f"{name.removeprefix('text:')}: found {len(raw)} bytes, expected a text of at least 100")
    symbols = raw.bincount(minlength=256).nonzero().flatten()  # the bytes that occur
    number = torch.zeros(256, dtype=torch.uint8)
    number[symbols] = torch.arange(len(symbols), dtype=torch.uint8)
    first, second = len(raw) * 90 // 100, len(raw) * 95 // 100
    segment = segment or SEGMENT
    kept = count_symbols(name, "train_size", train_size, first, least=segment + 1)
    held = count_symbols(name, "validation", validation, second - first)
    text = number[raw.int()]
    return TextTask(
        name=name,
        classes=len(symbols),
        symbols=bytes(symbols.tolist()),
        train=text[:kept],
        validation=text[first : first + held] if held else None,
        test=text[second:],
        segment=segment,
    )


def count_symbols(name: str, what: str, asked: int | None, available: int, least: int = 2) -> int:
    """Give how many symbols of a part are taken: as many as asked for, or all.

    Args:
        name: The dataset's name.
        what: The option that asks.
        asked: How many; None for all, 0 for none.
        available: How many there are.
        least: So many are needed if any are taken.

    Raises:
        ValueError: Naming what is possible.
    """
    if asked is not None and asked > available:
        raise ValueError(f"{name}: cannot take {what}={asked} symbols; that part of the text has {available}")
    taken = available if asked is None else asked
    if 0 < taken < least:
        raise ValueError(f"{name}: {what}={taken} symbols are too few, at least {least} are needed")
    return taken
