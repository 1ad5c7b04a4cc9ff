"""A dataset as it is stored: images with labels, how to augment them, and what it is tested against."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.files.image_files import ImageFiles, Images

ChannelStatistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of images in [0, 1], a number a channel."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W) uint8 with any memory layout, or files that are decoded when they are needed.
        labels: (N,) int64, the class of each image.

    Raises:
        ValueError: If shapes or types are not the above.
    """

    images: Images
    labels: Tensor

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and (self.images.ndim != 4 or self.images.dtype != torch.uint8):
            raise ValueError(f"images must be uint8 (N, C, H, W), found {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 ({self.images.shape[0]},), found {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def to(self, device: torch.device | str) -> "Split":
        """The same split on `device`; files stay where they are."""
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
class ImageDataset:
    """A dataset as it is stored, before any training image is held out.

    Attributes:
        classes: Number of classes.
        train: All training images.
        test: The test images.
        augmentation: How training images are augmented.
        validation: How many training images are held out unless something else is asked for.
        ood: OODLoader name -> function that loads images (M, C, H, W) uint8 of other things.
        corruptions: Names of the corruptions that are generated from the test images.
        statistics: Gives mean and standard deviation, a number a channel, for the training images that are used;
            None to count the levels of all of them, which must be in memory.
    """

    classes: int
    train: Split
    test: Split
    augmentation: Augmentation
    validation: int
    ood: Mapping[str, Callable[[], Images]]
    corruptions: tuple[str, ...]
    statistics: Callable[[ImageFiles], ChannelStatistics] | None = None
