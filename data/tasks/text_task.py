"""Tasks of language modelling: predict each next symbol of a text."""

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
"""Default number of symbols through which gradients flow back. Our choice: the late-phase paper does not state it."""
WINDOW_LENGTH = 1024
"""Number of symbols in a window, which a network reads at once in evaluation."""
CONTEXT_LENGTH = 256
"""Number of symbols at a window's beginning that are only context. A text's first window has no context."""


class TextSegments:
    """Minibatches of training text: consecutive segments of parallel lanes.

    The text is cut into lanes of equal length, one per row of a minibatch, and each lane into segments. Row b of a
    minibatch continues row b of the minibatch before it. A network that carries its state from one minibatch to the
    next thus reads each lane as one text, while gradients flow back only to the beginning of a segment (truncated
    back-propagation through time). Each pass begins at a random one of the first `segment` symbols, so that segments
    differ from pass to pass. A pass leaves out symbols at the beginning and the end of the text: fewer than a segment
    and a minibatch together.

    Args:
        text: (N,) uint8, the numbers of the symbols.
        lanes: Number of lanes, the rows of a minibatch.
        segment: Number of symbols in a segment. The last segment of a lane may have fewer.
        stream: Returns a fresh CPU generator, once a pass.

    Raises:
        ValueError: If the text is too short.
    """

    def __init__(self, text: Tensor, lanes: int, segment: int, stream: Callable[[], Generator]) -> None:
        self.length = check_text_length(len(text), lanes, segment)
        self._text, self._lanes, self._segment, self._stream = text, lanes, segment, stream
        self._rows = (0, lanes)

    @property
    def examples(self) -> int:
        """Number of segments in a pass."""
        return (self._rows[1] - self._rows[0]) * len(self)

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """Return the same segments with another stream of random numbers. The text is not copied."""
        other = copy(self)
        other._stream = stream
        return other

    def shard(self, part: int, parts: int) -> Self:
        """Return one shard of every minibatch: always the same lanes.

        Raises:
            ValueError: If there are fewer lanes than shards.
        """
        other = copy(self)
        other._rows = shard_bounds(*self._rows, part, parts)
        return other

    def __len__(self) -> int:
        """Minibatches of a pass."""
        return len(range(0, self.length, self._segment))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the minibatches of one pass: symbols x and the symbols y that follow them, both int64 (B, T)."""
        first = int(torch.randint(self._segment, (), generator=self._stream()))
        lanes = self._text[first : first + self._lanes * self.length].view(self._lanes, self.length)
        following = self._text[first + 1 : first + 1 + self._lanes * self.length].view(self._lanes, self.length)
        own = slice(*self._rows)
        for x, y in zip(torch.split(lanes, self._segment, 1), torch.split(following, self._segment, 1), strict=True):
            yield x[own].long(), y[own].long()


def check_text_length(symbols: int, lanes: int, segment: int) -> int:
    """Return the number of symbols in each lane of a training text, the same for every beginning of a pass.

    Raises:
        ValueError: If the text is too short for one symbol a lane.
    """
    length = (symbols - segment) // lanes
    if length < 1:
        raise ValueError(
            f"a text of {symbols} symbols is too short for {lanes} lanes, one a row of a minibatch, and segments of "
            f"{segment} symbols"
        )
    return length


class TextWindows:
    """Minibatches of evaluation text: overlapping windows, each read from an empty state.

    Each symbol except the text's first is predicted exactly once. A window begins with the last symbols of the window
    before it, as context for its predictions. Symbols that are not to be predicted have the label −1.

    Args:
        text: (N,) uint8, N at least 2.
        rows: Number of windows in a minibatch.
        window: Number of symbols in each window.
        context: Number of symbols at a window's beginning that are context.

    Raises:
        ValueError: If the text holds nothing to predict.
    """

    def __init__(self, text: Tensor, rows: int, window: int = WINDOW_LENGTH, context: int = CONTEXT_LENGTH) -> None:
        if len(text) < 2:
            raise ValueError(f"a text of {len(text)} symbols holds no symbol to predict")
        self._text, self._rows, self.window = text, rows, min(window, len(text) - 1)
        self.examples = len(text) - 1
        # The end of each window. The first window predicts all of its symbols, the others those after their context.
        self._stops = [*range(self.window, self.examples, max(window - context, 1)), self.examples]

    def __len__(self) -> int:
        """Minibatches of a pass."""
        return -(-len(self._stops) // self._rows)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the minibatches of one pass: symbols x and labels y, −1 where not predicted, both int64 (B, T)."""
        along = torch.arange(self.window, device=self._text.device)
        stops = torch.tensor(self._stops, device=self._text.device)
        predicted = torch.cat(
            [stops.new_zeros(1), stops[:-1]]
        )  # index up to which symbols are predicted before each window
        for stop, done in zip(torch.split(stops, self._rows), torch.split(predicted, self._rows), strict=True):
            places = (stop - self.window)[:, None] + along  # (B, T)
            yield self._text[places].long(), self._text[places + 1].long().where(places >= done[:, None], -1)

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """Refuse another stream: windows have no random order.

        Raises:
            ValueError: Always.
        """
        raise ValueError("windows of a text have no random order")

    def shard(self, part: int, parts: int) -> Self:
        """Refuse to shard: one process alone evaluates.

        Raises:
            ValueError: Always.
        """
        raise ValueError("windows of a text are not divided")


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """A text that is ready for training.

    Attributes:
        name: The dataset's name, as given to `load`.
        classes: Number of symbols C that occur anywhere in the text.
        symbols: The byte of each symbol, by the symbol's number.
        train: (N,) uint8, the training text as numbers of symbols.
        validation: The validation text; None if there is none.
        test: The test text.
        segment: Number of symbols through which gradients flow back.
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
        """The sizes of the dataset. Its examples are segments."""
        return DatasetShape(None, None, self.classes, count_segments(len(self.train), self.segment))

    def to(self, device: torch.device | str) -> Self:
        """Return the same task on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

    def training(self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True) -> TextSegments:
        """Return segments of the training text, x and y int64 (B, T). Text is never augmented."""
        return TextSegments(self.train, batch_size, self.segment, stream)

    def part(self, part: Part, batch_size: int) -> TextWindows | None:
        """Return windows of a part, x and y int64 (B, T), B at most `batch_size` / 16; None if the part is empty."""
        text = {"train": self.train, "validation": self.validation, "test": self.test}[part]
        return None if text is None else TextWindows(text, max(batch_size // 16, 1))


def count_segments(symbols: int, segment: int) -> int:
    """Count the segments of a training text. The last one may be shorter."""
    return max(-(-(symbols - segment) // segment), 1)


def make_text_task(
    name: str, content: NDArray[np.uint8], validation: int | None, train_size: int | None, segment: int | None
) -> TextTask:
    """Return the task of a text: number its bytes and divide it as `load_text` describes."""
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
    """Return the number of symbols to take from a part of a text.

    Args:
        name: The dataset's name.
        what: Name of the option that sets the number.
        asked: Value of the option; None for all symbols, 0 for none.
        available: Number of symbols in the part.
        least: Smallest number other than 0.

    Raises:
        ValueError: If the part has too few symbols, or the number is too small.
    """
    if asked is not None and asked > available:
        raise ValueError(f"{name}: cannot take {what}={asked} symbols; that part of the text has {available}")
    taken = available if asked is None else asked
    if asked is None and taken < least:
        raise ValueError(f"{name}: the text is too short: that part has {taken} symbols, at least {least} are needed")
    if 0 < taken < least:
        raise ValueError(f"{name}: {what}={taken} symbols are too few, at least {least} are needed")
    return taken
