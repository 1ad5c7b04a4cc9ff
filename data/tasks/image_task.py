"""Images to classify: the task made of a dataset's images, augmented on the device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Generator, Tensor

from data.corruptions import SEVERITIES, corrupt
from data.files.decoder_pool import DecoderPool
from data.files.image_files import Images
from data.tasks.batches import ImageBatches, normalisation_constants, normalise
from data.tasks.file_batches import ImageFileBatches, decode_batches
from data.tasks.image_dataset import Augmentation, Split
from data.tasks.task import DatasetShape, Part, Task

CACHED_VALUES_LIMIT = 2**18
"""Values of a test set up to which its corrupted images are kept: 75 times as many bytes, some 20 MB at most."""


@dataclass(frozen=True, eq=False)
class ImageTask(Task):
    """A dataset of images ready to train on.

    Attributes:
        name: The dataset's name, as it was asked for.
        classes: Number of classes C; labels are 0 … C − 1.
        train: Training images and labels.
        validation: Images held out of the training data; None if none are.
        test: Test images and labels.
        mean: Mean of the training images in [0, 1], one number a channel.
        std: Standard deviation of the training images in [0, 1], one number a channel, never zero.
        augmentation: How training images are augmented.
        ood: Out-of-distribution companions: name -> function that loads their images, (M, C, H, W) uint8 or files.
        corruptions: Names of the corruptions generated from the test images; empty for none.
        official: Yields the official corrupted test sets, which take the place of generated ones: the corruption's
            name, its severity and the images, in the order of the test images; None for none.
        decoder: Decodes images that are files.
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
    official: Callable[[], Iterator[tuple[str, int, Images]]] | None = None
    decoder: DecoderPool = field(default_factory=DecoderPool)
    _kept: dict[tuple[str, int, int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> DatasetShape:
        """What networks and schedules must know."""
        channels, side = self.train.images.shape[1:3]
        return DatasetShape(channels, side, self.classes, len(self.train.labels))

    def to(self, device: torch.device | str) -> Self:
        """The same task with its splits on `device`; companions are still loaded into main memory."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

    @property
    def device(self) -> torch.device:
        """Where batches come."""
        return self.test.labels.device

    def with_decoder_workers(self, workers: int | None) -> Self:
        """The same task, whose images, where they are files, are decoded by this many processes.

        Args:
            workers: 0 for none but the calling one; None for one a CPU.

        Raises:
            ValueError: If it is negative.
        """
        return replace(self, decoder=DecoderPool(workers))

    def training(
        self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True
    ) -> ImageBatches | ImageFileBatches:
        """Minibatches to train on, x float32 (B, C, H, W) normalised by the training set's statistics, y (B,)."""
        return self._passes(self.train, batch_size, self.augmentation if augmented else None, stream)

    def part(self, part: Part, batch_size: int) -> ImageBatches | ImageFileBatches | None:
        """All images of a split, once each, in order and unchanged but normalised; None if there are none.

        Images in files are cut as for evaluation: see `data.files.decode_image.resize_and_centre_crop`.
        """
        split = {"train": self.train, "validation": self.validation, "test": self.test}[part]
        return None if split is None else self._passes(split, batch_size)

    def in_batches(self, images: Images, batch_size: int) -> Iterator[Tensor]:
        """Bare images in order and unchanged, (B, C, H, W) uint8 on the task's device; the last batch may be smaller.

        Args:
            images: (M, C, H, W) uint8 on any device, or files.
            batch_size: Images a batch.

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
        """The test images under every corruption, batch by batch and always the same.

        Unless `official`, they are *generated* here with the published constants, so a figure measured on them is never
        to be quoted as one of the official corrupted datasets (CIFAR-10-C and its like). Each image is decoded once for
        all corruptions. No more than a batch of them is in memory, but for test sets so small that all are kept.

        Args:
            batch_size: Images a batch.

        Yields:
            The corruption's name, its severity (1 to 5), the place in the test set of the batch's first image, and
            the corrupted images (B, C, H, W) uint8, on the task's device.
        """
        if self.official:
            for name, severity, images in self.official():
                for i, batch in enumerate(self.in_batches(images, batch_size)):
                    yield name, severity, i * batch_size, batch
            return
        for i, images in enumerate(self.in_batches(self.test.images, batch_size)) if self.corruptions else ():
            for name in self.corruptions:
                for severity in SEVERITIES:
                    yield name, severity, i * batch_size, self._corrupt(images, name, severity, i * batch_size)

    def corrupted_part(self, name: str, severity: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images under one corruption, once each and in order: x and y as `part` gives them.

        Args:
            name: The corruption, one of `data.corruptions.CORRUPTIONS`.
            severity: From 1 to 5.
            batch_size: Images a batch.

        Raises:
            ValueError: If the official files are used and have no such set.
        """
        images: Images = self.test.images
        if self.official:
            found = [each for *which, each in self.official() if which == [name, severity]]
            if not found:
                raise ValueError(f"{self.name}: no official test set {name}, severity {severity}")
            images = found[0]
        for i, batch in enumerate(self.in_batches(images, batch_size)):
            start = i * batch_size
            seen = batch if self.official else self._corrupt(batch, name, severity, start)
            (x,) = normalised_batches(seen, self, len(seen))
            yield x, self.test.labels[start : start + len(x)]

    def _corrupt(self, images: Tensor, name: str, severity: int, start: int) -> Tensor:
        """Generate a corruption of some test images, or give what was generated before and is small enough to keep."""
        if self.test.images.shape.numel() > CACHED_VALUES_LIMIT:
            return corrupt(images, name, severity, start=start)
        place = (name, severity, start, len(images))
        if place not in self._kept:
            self._kept[place] = corrupt(images, name, severity, start=start)
        return self._kept[place]

    def _passes(
        self,
        split: Split,
        batch_size: int,
        augmentation: Augmentation | None = None,
        stream: Callable[[], Generator] | None = None,
    ) -> ImageBatches | ImageFileBatches:
        """Batches of a split, wherever its images are."""
        mean, std = self.mean, self.std
        if isinstance(split.images, Tensor):
            return ImageBatches(split, batch_size, mean=mean, std=std, augmentation=augmentation, stream=stream)
        return ImageFileBatches(
            split, batch_size, mean=mean, std=std, augmentation=augmentation, stream=stream, decoder=self.decoder
        )


def normalised_batches(images: Images, task: ImageTask, batch_size: int) -> Iterator[Tensor]:
    """Batches of bare images, normalised as the task's own: its companions and its corrupted test images.

    Args:
        images: (M, C, H, W) uint8, on any device, or files.
        task: Gives the mean, the standard deviation and the device.
        batch_size: Images a batch; the last one may be smaller.

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
