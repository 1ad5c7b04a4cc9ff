"""Tasks of image classification."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Generator, Tensor

from data.corruptions import SEVERITIES, corrupt
from data.corruptions.stored import StoredCorruptions
from data.files.decoder_pool import DecoderPool
from data.files.image_files import Images
from data.tasks.batches import ImageBatches, normalisation_constants, normalise
from data.tasks.file_batches import ImageFileBatches, decode_batches
from data.tasks.image_dataset import Augmentation, OfficialSets, Split
from data.tasks.task import DatasetShape, Part, Task

CACHED_VALUES_LIMIT = 2**18
"""Largest number of pixel values of a test set whose corrupted images are cached.

The cache holds 75 bytes per value (15 corruptions, 5 severities): about 20 MB at most.
"""


@dataclass(frozen=True, eq=False)
class ImageTask(Task):
    """An image dataset that is ready for training.

    Attributes:
        name: The dataset's name, as given to `load`.
        classes: Number of classes C; labels are 0 … C − 1.
        train: Training images and labels.
        validation: Images and labels held out of the training data; None if none are.
        test: Test images and labels.
        mean: Mean of the training images in [0, 1], one number per channel.
        std: Standard deviation of the training images in [0, 1], one number per channel, never zero.
        augmentation: How training images are augmented.
        ood: Name of each OOD dataset -> function that loads its images, (M, C, H, W) uint8 or files.
        corruptions: Names of the corruptions generated from the test images; empty for none.
        official: The official corrupted test sets, which replace generated ones; None if they are not used.
        decoder: Decodes the images that are files.
        corruption_folder: Folder in which generated corruptions are kept; None to generate them again at each call.
    """

    name: str
    classes: int
    train: Split
    validation: Split | None
    test: Split
    mean: Sequence[float]
    std: Sequence[float]
    augmentation: Augmentation
    ood: Mapping[str, Callable[[], Images]]
    corruptions: tuple[str, ...]
    official: OfficialSets | None = None
    decoder: DecoderPool = field(default_factory=DecoderPool)
    corruption_folder: Path | None = None
    _cache: dict[tuple[str, int, int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> DatasetShape:
        """The sizes of the dataset."""
        channels, side = self.train.images.shape[1:3]
        return DatasetShape(channels, side, self.classes, len(self.train.labels))

    def to(self, device: torch.device | str) -> Self:
        """Return the same task with its splits on `device`. OOD images are still loaded into main memory."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

    @cached_property
    def _stored(self) -> StoredCorruptions | None:
        """The corrupted test images on disk; None if they are not kept."""
        images = self.test.images
        if self.corruption_folder is None or not isinstance(images, Tensor) or not StoredCorruptions.fits(images):
            return None
        return StoredCorruptions(self.corruption_folder, images)

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.test.labels.device

    def with_decoder_workers(self, workers: int | None) -> Self:
        """Return the same task with another number of processes that decode image files.

        Args:
            workers: Number of processes; 0 to decode in the calling process, None for one per CPU.

        Raises:
            ValueError: If the number is negative.
        """
        return replace(self, decoder=DecoderPool(workers))

    def training(
        self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True
    ) -> ImageBatches | ImageFileBatches:
        """Return minibatches of the training images: x float32 (B, C, H, W), normalised, and y int64 (B,)."""
        return self._passes(self.train, batch_size, self.augmentation if augmented else None, stream)

    def part(self, part: Part, batch_size: int) -> ImageBatches | ImageFileBatches | None:
        """Return minibatches of all images of a part, in order, normalised and not augmented; None if it has none.

        Image files are cropped as for evaluation: see `data.files.decode_image.resize_and_centre_crop`.
        """
        split = {"train": self.train, "validation": self.validation, "test": self.test}[part]
        return None if split is None else self._passes(split, batch_size)

    def in_batches(self, images: Images, batch_size: int) -> Iterator[Tensor]:
        """Yield images without labels, in order: (B, C, H, W) uint8 on the task's device, not normalised.

        The last batch may be smaller.

        Args:
            images: (M, C, H, W) uint8 on any device, or files.
            batch_size: Images in a batch.

        Raises:
            ValueError: If a file cannot be decoded.
        """
        if isinstance(images, Tensor):
            yield from (batch.to(self.device) for batch in torch.split(images, batch_size))
        else:
            starts = range(0, len(images), batch_size)
            edges = [(start, min(start + batch_size, len(images))) for start in starts]
            yield from decode_batches(images, edges, self.decoder, self.device)

    def corrupted(self, batch_size: int) -> Iterator[tuple[str, int, int, Tensor]]:
        """Yield the test images under all corruptions, batch by batch. Each call yields the same images.

        Without `official`, the images are *generated* here with the published constants. Never quote a result on them
        as one on the official corrupted datasets (CIFAR-10-C and similar). Each image is decoded once for all
        corruptions. Only one batch at a time is in memory, except for small test sets, whose corrupted images are
        cached.

        Args:
            batch_size: Images in a batch.

        Yields:
            The corruption's name, its severity (1 to 5), the index in the test set of the batch's first image, and
            the corrupted images (B, C, H, W) uint8 on the task's device.
        """
        if self.official:
            for name, severity, images in self.official.read():
                for i, batch in enumerate(self.in_batches(images, batch_size)):
                    yield name, severity, i * batch_size, batch
            return
        for i, images in enumerate(self.in_batches(self.test.images, batch_size)) if self.corruptions else ():
            for name in self.corruptions:
                for severity in SEVERITIES:
                    yield name, severity, i * batch_size, self._corrupt(images, name, severity, i * batch_size)

    def corrupted_part(self, name: str, severity: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test images under one corruption, in order and once each: x and y as in the batches of `part`.

        Args:
            name: The corruption, a key of `data.corruptions.CORRUPTIONS`.
            severity: From 1 to 5.
            batch_size: Images in a batch.

        Raises:
            ValueError: If the official files are used and do not have this corruption.
        """
        images: Images = self.test.images
        if self.official:
            found = [each for *which, each in self.official.read() if which == [name, severity]]
            if not found:
                raise ValueError(f"{self.name}: no official test set {name}, severity {severity}")
            images = found[0]
        for i, batch in enumerate(self.in_batches(images, batch_size)):
            start = i * batch_size
            seen = batch if self.official else self._corrupt(batch, name, severity, start)
            (x,) = normalised_batches(seen, self, len(seen))
            yield x, self.test.labels[start : start + len(x)]

    def _corrupt(self, images: Tensor, name: str, severity: int, start: int) -> Tensor:
        """Return a corruption of some test images: from memory if there are few, from disk unless there are many."""
        if self.test.images.shape.numel() > CACHED_VALUES_LIMIT:
            if self._stored is None:
                return corrupt(images, name, severity, start=start)
            return self._stored.part(name, severity, start, start + len(images))
        key = (name, severity, start, len(images))
        if key not in self._cache:
            self._cache[key] = corrupt(images, name, severity, start=start)
        return self._cache[key]

    def _passes(
        self,
        split: Split,
        batch_size: int,
        augmentation: Augmentation | None = None,
        stream: Callable[[], Generator] | None = None,
    ) -> ImageBatches | ImageFileBatches:
        """Return minibatches of a split, whose images are in memory or in files."""
        mean, std = self.mean, self.std
        if isinstance(split.images, Tensor):
            return ImageBatches(split, batch_size, mean=mean, std=std, augmentation=augmentation, stream=stream)
        return ImageFileBatches(
            split, batch_size, mean=mean, std=std, augmentation=augmentation, stream=stream, decoder=self.decoder
        )


def normalised_batches(images: Images, task: ImageTask, batch_size: int) -> Iterator[Tensor]:
    """Yield images without labels, such as OOD or corrupted images, normalised like the task's own images.

    Args:
        images: (M, C, H, W) uint8, on any device, or files.
        task: Defines the mean, the standard deviation and the device.
        batch_size: Images in a batch. The last batch may be smaller.

    Yields:
        float32 (B, C, H, W), channels last in memory, on the device of the task's test images.

    Raises:
        ValueError: If the images do not have the task's shape, or a file cannot be decoded.
    """
    if images.shape[1:] != task.test.images.shape[1:]:
        raise ValueError(
            f"{task.name}: images have shape {tuple(images.shape[1:])}, "
            f"the task's own {tuple(task.test.images.shape[1:])} (channels, height, width)"
        )
    scale, shift = normalisation_constants(images.shape[1:], task.mean, task.std, task.device)
    for batch in task.in_batches(images, batch_size):
        yield normalise(batch.contiguous(memory_format=torch.channels_last), scale, shift)
