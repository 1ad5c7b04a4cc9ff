"""Minibatches of image files, decoded ahead of their use and normalised on the device."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

import torch
from torch import Generator, Tensor

from data.files.decode_image import DecodeJob
from data.files.decoder_pool import DecoderPool
from data.files.image_files import ImageFiles
from data.tasks.batches import SplitBatches, batch_bounds, normalisation_constants, normalise
from data.tasks.image_dataset import Augmentation, Split


class ImageFileBatches(SplitBatches):
    """Minibatches of a split whose images are files. See `ImageBatches` for images in memory.

    With a `stream`, each pass takes a fresh generator and draws all of its random numbers at the start, on the CPU:
    the order, and a seed for each image. The process that decodes an image draws its random crop and mirroring from
    that seed. The bits therefore depend neither on the number of processes nor on the device. Without a stream, the
    images come in order and are cropped as for evaluation.

    Images are copied to the device as uint8 and normalised there. If the device is a GPU, they are copied from
    page-locked memory.

    Args:
        split: Image files and labels. The batches are on the device of the labels.
        batch_size: Images in a batch.
        decoder: Decodes the files.
        mean: Number subtracted from each channel of the images in [0, 1].
        std: Number by which each channel is then divided.
        augmentation: Random crops, with mirroring if its `flip` is set; None for the crop of evaluation. It is used
            only with a stream.
        stream: Returns a fresh CPU generator, once a pass; None for no randomness.

    Raises:
        ValueError: If the split is empty, the batch size is less than 1, or the augmentation has padding or cutout,
            which only images in memory have. During iteration: if a file cannot be decoded.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        decoder: DecoderPool,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        stream: Callable[[], Generator] | None = None,
    ) -> None:
        if not isinstance(split.images, ImageFiles):
            raise TypeError("the images are in memory; use ImageBatches")
        if augmentation and (augmentation.padding or augmentation.cutout):
            raise ValueError("image files are randomly cropped and mirrored; padding and cutout must be 0")
        self.examples = len(split.labels)
        self._bounds = batch_bounds(self.examples, batch_size)
        self._files, self._labels = split.images, split.labels
        self._decoder = decoder
        self._augmentation = augmentation
        self._stream = stream
        self._mean, self._std = mean, std

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one pass: x float32 (B, 3, S, S), channels last in memory, y int64 (B,)."""
        device = self._labels.device
        files, labels, seeds = self._files, self._labels, None
        if self._stream is not None:
            generator = self._stream()
            order = torch.randperm(len(labels), generator=generator)
            files, labels = files[order], labels[order.to(device)]
            if self._augmentation:
                seeds = torch.randint(2**63 - 1, (len(labels),), generator=generator)
        flip = self._augmentation is not None and self._augmentation.flip
        scale, shift = normalisation_constants(files.shape[1:], self._mean, self._std, device)
        images = decode_batches(files, self._bounds, self._decoder, device, seeds, flip=flip)
        for (start, stop), batch in zip(self._bounds, images, strict=True):
            yield normalise(batch, scale, shift), labels[start:stop]


def decode_batches(
    files: ImageFiles,
    batches: Sequence[tuple[int, int]],
    decoder: DecoderPool,
    device: torch.device,
    seeds: Tensor | None = None,
    *,
    flip: bool = False,
) -> Iterator[Tensor]:
    """Decode files batch by batch. Each batch is divided evenly among the decoder's processes.

    Args:
        files: N image files.
        batches: First index of each batch, and the index after its last image.
        decoder: Decodes the files.
        device: Device of the returned batches.
        seeds: (N,) int64, the seed of each image's random crop; None for the crop of evaluation.
        flip: Whether half of the images with a seed are mirrored.

    Yields:
        (B, 3, S, S) uint8, channels last in memory, on the device.

    Raises:
        ValueError: If a file cannot be decoded.
    """
    parts = [_split_evenly(start, stop, decoder.workers or 1) for start, stop in batches]
    jobs = (_decode_job(files, seeds, flip, *part) for batch in parts for part in batch)
    pieces = decoder(jobs, pinned=device.type == "cuda")
    for batch in parts:
        own = [piece.to(device, non_blocking=True) for piece in islice(pieces, len(batch))]
        yield (own[0] if len(own) == 1 else torch.cat(own)).permute(0, 3, 1, 2)


def _split_evenly(start: int, stop: int, count: int) -> list[tuple[int, int]]:
    """Divide a batch into at most `count` parts whose sizes differ by at most one."""
    count = min(count, stop - start)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _decode_job(files: ImageFiles, seeds: Tensor | None, flip: bool, start: int, stop: int) -> DecodeJob:
    """Return the job that decodes the files start … stop − 1."""
    own = None if seeds is None else seeds[start:stop].tolist()
    return DecodeJob(files[start:stop].paths(), files.side, own, flip, files.resized)
