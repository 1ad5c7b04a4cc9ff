"""Minibatches of images in memory, augmented and normalised on the device, all images of a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from data.tasks.image_dataset import Augmentation, Split
from data.tasks.task import shard_bounds


class SplitBatches:
    """Base of minibatches of a split: which examples each batch holds, independent of how the images are stored.

    Attributes:
        examples: Number of images in a pass.
    """

    examples: int
    _bounds: list[tuple[int, int]]
    _stream: Callable[[], Generator] | None

    def with_stream(self, stream: Callable[[], Generator]) -> Self:
        """Return the same batches with another stream of random numbers. The images are not copied.

        Raises:
            ValueError: If these batches have no stream.
        """
        if self._stream is None:
            raise ValueError("batches without a stream are not prepared for one")
        other = copy(self)
        other._stream = stream
        return other

    def shard(self, part: int, parts: int) -> Self:
        """Return one shard of every batch. The random numbers are those of the whole batches.

        Raises:
            ValueError: If a shard of some batch would be empty.
        """
        other = copy(self)
        other._bounds = [shard_bounds(start, stop, part, parts) for start, stop in self._bounds]
        other.examples = sum(stop - start for start, stop in other._bounds)
        return other

    def __len__(self) -> int:
        """Number of batches in a pass."""
        return len(self._bounds)


class ImageBatches(SplitBatches):
    """Minibatches of a split whose images are in memory: normalised and, in training, shuffled and augmented.

    With a `stream`, each pass takes a fresh generator and draws all of its random numbers at the start, on the CPU:
    the order, and each image's window, mirroring and cutout. Equal generators therefore give equal bits on every
    device, and no later step of the pass waits for the device. Without a stream, the images come in order and are
    not augmented.

    Each image is visited exactly once a pass. The last, smaller batch is kept. A last batch of a single image is
    joined to the batch before it, because BatchNorm cannot train on one image. With a batch size of 1, all batches
    hold one image.

    Args:
        split: Images and labels. The batches are on the same device.
        batch_size: Images in a batch.
        mean: Number subtracted from each channel of the images in [0, 1].
        std: Number by which each channel is then divided.
        augmentation: Random changes of the images. They are made only with a stream.
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
        if not isinstance(split.images, Tensor):
            raise TypeError("the images are files; use ImageFileBatches")
        self.examples = len(split.labels)
        self._bounds = batch_bounds(self.examples, batch_size)
        self._stream = stream
        self._augmentation = augmentation or Augmentation()
        self._labels = split.labels
        self._images = split.images.contiguous(memory_format=memory_format)  # (N, C, H, W)
        self._scale, self._shift = normalisation_constants(
            self._images.shape[1:], mean, std, self._images.device, memory_format
        )
        self._channels_last = memory_format == torch.channels_last
        self._row_windows = (
            None if stream is None else _row_windows(self._images, self._augmentation.padding, self._channels_last)
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one pass: x float32 (B, C, H, W) in the memory format, y int64 (B,)."""
        if self._stream is None or self._row_windows is None:
            for start, stop in self._bounds:
                yield normalise(self._images[start:stop], self._scale, self._shift), self._labels[start:stop]
        else:
            draws = self._draw(self._stream())
            for start, stop in self._bounds:
                yield self._augmented(self._row_windows, draws[:, start:stop])

    def _draw(self, generator: Generator) -> Tensor:
        """Draw the random numbers of a pass, (6, N) int64.

        The rows are the image's index, its window's row and column, whether it is mirrored, and its cutout's row and
        column. All of them are drawn even if they are not used, so that the order and the windows do not depend on
        whether cutout is used.
        """
        n, side = self._images.shape[0], self._images.shape[2]
        order = torch.randperm(n, generator=generator)
        places = torch.randint(2 * self._augmentation.padding + 1, (2, n), generator=generator)
        flips = torch.randint(2, (1, n), generator=generator)
        centres = torch.randint(side, (2, n), generator=generator)
        return torch.cat([order[None], places, flips, centres]).to(self._labels.device)

    def _augmented(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented batch that is described by some columns of the draws, (6, B)."""
        index, top, left, mirrored, cut_row, cut_column = draws
        x = self._windows(rows, index, top, left)  # (B, planes, S, S, inner)
        if self._augmentation.flip:
            both = torch.cat([x, x.flip(3)])
            x = both.index_select(0, torch.arange(len(x), device=x.device) + mirrored * len(x))
        x = x[:, 0].permute(0, 3, 1, 2) if self._channels_last else x[..., 0]  # (B, C, S, S)
        x = normalise(x, self._scale, self._shift)
        if self._augmentation.cutout:
            x *= _cutout_mask(cut_row, cut_column, self._augmentation.cutout, x.shape, self._channels_last)
        return x, self._labels[index]

    def _windows(self, rows: Tensor, index: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Cut a window out of each padded image: (B, planes, S, S, inner), in memory order.

        Whole rows are copied. On a CPU this is ten times as fast as picking single pixels.
        """
        c, side = self._images.shape[1:3]
        planes, inner = (1, c) if self._channels_last else (c, 1)
        padded = side + 2 * self._augmentation.padding
        plane = index[:, None] * planes + torch.arange(planes, device=index.device)  # (B, planes)
        along = top[:, None] + torch.arange(side, device=index.device)  # (B, S)
        first = (plane[:, :, None] * padded + along[:, None]) * padded + left[:, None, None]  # (B, planes, S)
        return rows.index_select(0, first.flatten()).view(len(index), planes, side, side, inner)


def batch_bounds(examples: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the first index of each batch of a pass, and the index after its last example.

    A last batch of a single example is joined to the batch before it.

    Raises:
        ValueError: If there are no examples or the batch size is less than 1.
    """
    if examples < 1:
        raise ValueError("cannot make batches of an empty split")
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    starts = list(range(0, examples, batch_size))
    if len(starts) > 1 and batch_size > 1 and examples - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], examples], strict=True))


def normalisation_constants(
    shape: torch.Size,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    memory_format: torch.memory_format = torch.channels_last,
) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each float32 (1, C, H, W), with uint8 · scale + shift = (uint8 / 255 − mean) / std.

    Both have the size and the memory layout of an image. On a CPU this is several times as fast as broadcasting C
    numbers.

    Args:
        shape: (C, H, W) of an image.
        mean: Number subtracted from each channel of the images in [0, 1].
        std: Number by which each channel is then divided.
        device: Device of the images.
        memory_format: Memory layout of the images.

    Raises:
        ValueError: If the number of means or deviations is not the number of channels.
    """
    c = shape[0]
    if not len(mean) == len(std) == c:
        raise ValueError(f"images have {c} channels, but there are {len(mean)} means and {len(std)} deviations")
    deviation = torch.tensor(list(std), dtype=torch.float64).view(1, c, 1, 1)
    scale = 1 / (255 * deviation)
    shift = -torch.tensor(list(mean), dtype=torch.float64).view(1, c, 1, 1) / deviation
    like = torch.empty(1, *shape, device=device).contiguous(memory_format=memory_format)
    return torch.empty_like(like).copy_(scale), torch.empty_like(like).copy_(shift)


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return images · scale + shift as float32, in the memory layout of the images.

    The result is computed in place, because on a CPU allocating a second tensor costs more than the arithmetic.

    Args:
        images: (B, C, H, W) uint8.
        scale: (1, C, H, W) float32, from `normalisation_constants`.
        shift: (1, C, H, W) float32, from `normalisation_constants`.
    """
    x = images.float()
    return torch.addcmul(shift, x, scale, out=x)


def _row_windows(images: Tensor, padding: int, channels_last: bool) -> Tensor:
    """Return every run of pixels as long as an image row in the padded images, as a view of them.

    Only the padded images use memory.

    Returns:
        (R, row): runs ordered by their first pixel, which is counted through all padded images in memory order. The
        order is (N, H, W) pixels of C numbers if channels come last, else (N, C, H, W) numbers.
    """
    c, width = images.shape[1], images.shape[3]
    pixel = c if channels_last else 1
    if channels_last:
        padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    else:
        padded = F.pad(images, (padding, padding, padding, padding))
    return padded.flatten().unfold(0, width * pixel, pixel)


def _cutout_mask(row: Tensor, column: Tensor, cutout: int, shape: torch.Size, channels_last: bool) -> Tensor:
    """Return a mask that is 0 inside each image's cutout square and 1 outside, float32 (B, C or 1, S, S).

    With channels last, the mask has the size and layout of the images. Multiplying by it is then several times as fast
    on a CPU as broadcasting it over the channels.

    Args:
        row: (B,) row of each square's centre.
        column: (B,) column of each square's centre.
        cutout: Side of the squares, in pixels.
        shape: (B, C, S, S) of the images.
        channels_last: Whether the images' channels come last in memory.
    """
    b, c, side, _ = shape
    along = torch.arange(side, device=row.device)
    rows, columns = (
        ((along < first[:, None]) | (along >= first[:, None] + cutout)).float()  # (B, S)
        for first in (row - cutout // 2, column - cutout // 2)
    )
    if not channels_last:
        return torch.maximum(rows[:, None, :, None], columns[:, None, None, :])
    columns = columns.repeat_interleave(c, 1)  # (B, S · C)
    return torch.maximum(rows[:, :, None], columns[:, None, :]).view(b, side, side, c).permute(0, 3, 1, 2)
