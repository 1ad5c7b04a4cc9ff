"""Batches of images in files, decoded ahead of the device and normalised on it."""

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
    """Batches of one split whose images are files; else as `ImageBatches`.

    With a `stream` every pass takes a fresh generator from it and draws all it needs at the start of the pass on
    the CPU: the order, and a seed for each image, from which its random cut and mirroring are made wherever it is
    decoded. The bits therefore depend neither on the number of processes nor on the device. Without a stream the
    images come in order, cut for evaluation.

    Images travel as uint8, from page-locked memory where the device is a GPU, and become numbers there.

    Args:
        split: Files and labels; the batches come on the device of the labels.
        batch_size: Images a batch.
        decoder: Decodes them.
        mean: What is subtracted from each channel of the images in [0, 1].
        std: What each channel is divided by afterwards.
        augmentation: Whether images are mirrored, with cuts at random; None for the cut of evaluation. Used only
            with a stream.
        stream: Returns a fresh CPU generator, once a pass; None for no randomness.

    Raises:
        ValueError: If the split is empty, the batch size is less than 1, or the augmentation is one of images in
            memory. While they are iterated: if a file cannot be decoded.
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
            raise TypeError("these images are in memory: ImageBatches makes batches of them")
        if augmentation and (augmentation.padding or augmentation.cutout):
            raise ValueError("images in files are cut at random sizes and mirrored; padding and cutout must be 0")
        self.examples = len(split.labels)
        self._bounds = batch_bounds(self.examples, batch_size)
        self._files, self._labels = split.images, split.labels
        self._decoder = decoder
        self._augmentation = augmentation
        self._stream = stream
        self._mean, self._std = mean, std

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass: x float32 (B, 3, S, S), channels last in memory, y int64 (B,)."""
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
    """Decode files batch by batch; each batch is shared out evenly among the decoder's processes.

    Args:
        files: N images.
        batches: Where each batch starts and stops among them.
        decoder: Decodes them.
        device: Where the batches are wanted.
        seeds: (N,) int64, from which random cuts are made; None for the cut of evaluation.
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
    """Cut a batch into at most `count` parts whose sizes differ by one at most."""
    count = min(count, stop - start)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _decode_job(files: ImageFiles, seeds: Tensor | None, flip: bool, start: int, stop: int) -> DecodeJob:
    """Describe the decoding of some files to a process."""
    own = None if seeds is None else seeds[start:stop].tolist()
    return DecodeJob(files[start:stop].paths(), files.side, own, flip, files.resized)
