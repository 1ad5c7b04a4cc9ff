"""What a task is: images and labels in splits, how to augment them, and the companions it is tested against."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.corruptions import corrupt


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W) uint8; any memory layout.
        labels: (N,) int64, the class of each image.

    Raises:
        ValueError: If shapes or types are not the above.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (N, C, H, W), found {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 ({self.images.shape[0]},), found {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def to(self, device: torch.device | str) -> "Split":
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images, drawn for each image on its own at every pass.

    Attributes:
        padding: Pixels of black added on every side before a window of the original size is cut out at random.
        flip: Whether half of the images are mirrored left to right.
        cutout: Side, in pixels, of a square set to the training mean (0 after normalisation); 0 for none. Its
            centre is any pixel of the image, so that a part of it may lie outside.

    References:
        DeVries & Taylor, Improved regularization of convolutional neural networks with cutout, 2017, section 3.2.
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for what, value in (("padding", self.padding), ("cutout", self.cutout)):
            if value < 0:
                raise ValueError(f"augmentation: {what} must not be negative, got {value}")


@dataclass(frozen=True, eq=False)
class Source:
    """A dataset as it is stored, before any training image is held out.

    Attributes:
        classes: Number of classes.
        train: All training images.
        test: The test images.
        augmentation: How training images are augmented.
        validation: How many training images are held out unless something else is asked for.
        ood: Companion name -> function that loads images (M, C, H, W) uint8 of other things.
        corruptions: Names of the corruptions that are generated from the test images.
    """

    classes: int
    train: Split
    test: Split
    augmentation: Augmentation
    validation: int
    ood: Mapping[str, Callable[[], Tensor]]
    corruptions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Task:
    """A dataset ready to train on.

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
    def in_channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.train.images.shape[2]

    def to(self, device: torch.device | str) -> "Task":
        """The same task with its splits on `device`; companions are still loaded into main memory."""
        return replace(
            self,
            train=self.train.to(device),
            validation=None if self.validation is None else self.validation.to(device),
            test=self.test.to(device),
        )

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
