"""Pictures to classify: the task made of a dataset's pictures, augmented on the device."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Generator, Tensor

from data.batches import Batches
from data.corruptions import corrupt
from data.source import Augmentation, Split
from data.task import Part, Shape, Task


@dataclass(frozen=True, eq=False)
class PictureTask(Task):
    """A dataset of pictures ready to train on.

    Attributes:
        name: The dataset's name, as it was asked for.
        classes: Number of classes C; labels are 0 … C − 1.
        train: Training images and labels.
        validation: Images held out of the training data; None if none are.
        test: Test images and labels.
        mean: Mean of the training images in [0, 1], one number a channel.
        std: Standard deviation of the training images in [0, 1], one number a channel, never zero.
        augmentation: How training images are augmented.
        ood: Out-of-distribution companions: name -> function that loads their images, (M, C, H, W) uint8.
        corruptions: Names of the corruptions generated from the test images; empty for none.
    """

    name: str
    classes: int
    train: Split
    validation: Split | None
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    ood: Mapping[str, Callable[[], Tensor]]
    corruptions: tuple[str, ...]

    @property
    def shape(self) -> Shape:
        """What networks and schedules must know."""
        channels, side = self.train.images.shape[1:3]
        return Shape(channels, side, self.classes, len(self.train.labels))

    def to(self, device: torch.device | str) -> Self:
        """The same task with its splits on `device`; companions are still loaded into main memory."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

    def training(self, batch_size: int, stream: Callable[[], Generator], *, augmented: bool = True) -> Batches:
        """Minibatches to train on, x float32 (B, C, H, W) normalised by the training set's statistics, y (B,)."""
        augmentation = self.augmentation if augmented else None
        return Batches(self.train, batch_size, mean=self.mean, std=self.std, augmentation=augmentation, stream=stream)

    def part(self, part: Part, batch_size: int) -> Batches | None:
        """All pictures of a split, once each, in order and unchanged but normalised; None if there are none."""
        split = {"train": self.train, "validation": self.validation, "test": self.test}[part]
        return None if split is None else Batches(split, batch_size, mean=self.mean, std=self.std)

    def corrupted(self) -> Iterator[tuple[str, int, Tensor]]:
        """The test images under every corruption, one set at a time and always the same.

        They are *generated* here with the published constants, so a figure measured on them is never to be quoted
        as one of the official corrupted datasets (CIFAR-10-C and its like).

        Yields:
            The corruption's name, its severity (1 to 5) and the corrupted test images (N, C, H, W) uint8, on the
            device of the test images and in their order.
        """
        for name in self.corruptions:
            for severity in range(1, 6):
                yield name, severity, corrupt(self.test.images, name, severity)
