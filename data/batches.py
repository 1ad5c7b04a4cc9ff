"""Batches on the device: cut, mirrored, masked and normalised there, all images of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from data.source import Augmentation, Split

if TYPE_CHECKING:
    from data.pictures import PictureTask


class Batches:
    """Batches of one split, normalised and, in training, shuffled and augmented.

    With a `stream` every pass takes a fresh generator from it and draws all it needs at the start of the pass on
    the CPU: the order, and each image's window, mirroring and cutout. Equal generators therefore give equal bits
    at each pass and on every device, and nothing later in the pass waits for the device. Without a stream the
    images come in order and unchanged.

    Every image is visited exactly once a pass and the last, smaller batch is kept. A last batch of a single image
    joins the batch before it, because BatchNorm cannot train on one image (not with a batch size of 1, where
    every batch is such a batch).

    Args:
        split: Images and labels; the batches come on the same device.
        batch_size: Images a batch.
        mean: What is subtracted from each channel of the images in [0, 1].
        std: What each channel is divided by afterwards.
        augmentation: Random changes of the images; used only with a stream.
        stream: Returns a fresh CPU generator, once a pass; None for no randomness.
        memory_format: Layout of the images of a batch: `torch.channels_last` or `torch.contiguous_format`.

    Raises:
        ValueError: If the split is empty or the batch size is less than 1.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        stream: Callable[[], Generator] | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.examples = len(split.labels)
        if self.examples < 1:
            raise ValueError("cannot make batches of an empty split")
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {batch_size}")
        self._stream = stream
        self._augmentation = augmentation or Augmentation()
        self._labels = split.labels
        self._images = split.images.contiguous(memory_format=memory_format)  # (N, C, H, W)
        self._scale, self._shift = _normalisation(self._images, mean, std)
        self._channels_last = memory_format == torch.channels_last
        self._windows = (
            None if stream is None else _windows(self._images, self._augmentation.padding, self._channels_last)
        )
        self._starts = list(range(0, self.examples, batch_size))
        if len(self._starts) > 1 and batch_size > 1 and self.examples - self._starts[-1] == 1:
            self._starts.pop()

    def streaming(self, stream: Callable[[], Generator]) -> Self:
        """The same batches with other randomness; their images are not copied.

        Raises:
            ValueError: If these have none.
        """
        if self._stream is None:
            raise ValueError("batches without a stream are not prepared for one")
        other = copy(self)
        other._stream = stream
        return other

    def __len__(self) -> int:
        """Number of batches a pass."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: x float32 (B, C, H, W) in the memory format, y int64 (B,)."""
        stops = [*self._starts[1:], self.examples]
        if self._stream is None or self._windows is None:
            for start, stop in zip(self._starts, stops, strict=True):
                x = self._images[start:stop].float()
                yield torch.addcmul(self._shift, x, self._scale), self._labels[start:stop]
        else:
            draws = self._draw(self._stream())
            for start, stop in zip(self._starts, stops, strict=True):
                yield self._augmented(self._windows, draws[:, start:stop])

    def _draw(self, generator: Generator) -> Tensor:
        """All that a pass needs, (6, N) int64: image, its window's place (2), mirrored or not, cutout's centre (2).

        Everything is drawn even if it is not used, so that switching cutout on leaves the order and the windows.
        """
        n, side = self._images.shape[0], self._images.shape[2]
        order = torch.randperm(n, generator=generator)
        places = torch.randint(2 * self._augmentation.padding + 1, (2, n), generator=generator)
        flips = torch.randint(2, (1, n), generator=generator)
        centres = torch.randint(side, (2, n), generator=generator)
        return torch.cat([order[None], places, flips, centres]).to(self._labels.device)

    def _augmented(self, windows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The batch that some columns of the draws, (6, B), describe."""
        index, row, column, flip, cut_row, cut_column = draws
        x = windows[index, row, column]  # (B, H, W, C) if channels come last in memory, else (B, C, H, W)
        if self._channels_last:
            x = x.permute(0, 3, 1, 2)
        if self._augmentation.flip:
            x = torch.where(flip.bool()[:, None, None, None], x.flip(3), x)
        x = torch.addcmul(self._shift, x.float(), self._scale)
        if self._augmentation.cutout:
            square = _square(cut_row, cut_column, self._augmentation.cutout, x.shape[2])
            x.masked_fill_(square, 0.0)
        return x, self._labels[index]


def normalised(images: Tensor, task: PictureTask, batch_size: int) -> Iterator[Tensor]:
    """Batches of bare images, normalised as the task's own: its companions and its corrupted test images.

    Args:
        images: (M, C, H, W) uint8, on any device.
        task: Gives the mean, the standard deviation and the device.
        batch_size: Images a batch; the last one may be smaller.

    Yields:
        float32 (B, C, H, W), channels last in memory, on the device of the task's test images.

    Raises:
        ValueError: If the images do not have the task's shape.
    """
    if images.shape[1:] != task.test.images.shape[1:]:
        raise ValueError(
            f"{task.name}: images have shape {tuple(images.shape[1:])}, "
            f"the task's own {tuple(task.test.images.shape[1:])} (channels, height, width)"
        )
    example = task.test.images[:1].contiguous(memory_format=torch.channels_last)
    scale, shift = _normalisation(example, task.mean, task.std)
    for batch in torch.split(images, batch_size):
        x = batch.to(example.device).to(torch.float32, memory_format=torch.channels_last)
        yield torch.addcmul(shift, x, scale)


def _normalisation(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scale and shift, each float32 (1, C, H, W), with uint8 · scale + shift = (uint8 / 255 − mean) / std.

    They are as large as an image and lie in memory as `images` do, which is several times faster on a CPU than
    broadcasting C numbers.
    """
    c = images.shape[1]
    if not len(mean) == len(std) == c:
        raise ValueError(f"images have {c} channels, but there are {len(mean)} means and {len(std)} deviations")
    deviation = torch.tensor(std, dtype=torch.float64).view(1, c, 1, 1)
    scale = 1 / (255 * deviation)
    shift = -torch.tensor(mean, dtype=torch.float64).view(1, c, 1, 1) / deviation
    like = images[:1].float()
    return torch.empty_like(like).copy_(scale), torch.empty_like(like).copy_(shift)


def _windows(images: Tensor, padding: int, channels_last: bool) -> Tensor:
    """Every window of the original size in the padded images, as a view that costs only the padded images.

    Returns:
        (N, 2 · padding + 1, 2 · padding + 1, ...): image, row and column of the window's upper left corner, then
        the window in the order in which it lies in memory: (H, W, C) if channels come last, else (C, H, W).
    """
    height, width = images.shape[2:]
    if channels_last:
        padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    padded = F.pad(images, (padding, padding, padding, padding))
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)


def _square(row: Tensor, column: Tensor, side: int, size: int) -> Tensor:
    """Masks (B, 1, size, size), true in a square of the given side around each image's centre row and column."""
    along = torch.arange(size, device=row.device)
    rows = (along >= (row - side // 2)[:, None]) & (along < (row - side // 2 + side)[:, None])  # (B, size)
    columns = (along >= (column - side // 2)[:, None]) & (along < (column - side // 2 + side)[:, None])
    return rows[:, None, :, None] & columns[:, None, None, :]
