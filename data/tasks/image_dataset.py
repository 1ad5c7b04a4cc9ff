"""An image dataset as it is stored: images with labels, their augmentation, OOD datasets and corruptions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.files.digests import KnownDigests
from data.files.image_files import ImageFiles, Images

ChannelStatistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of images in [0, 1], one number per channel each."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W) uint8 in any memory layout, or image files that are decoded later.
        labels: (N,) int64, the class of each image.

    Raises:
        ValueError: If the images or labels have another shape or type.
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
        """Return the same split on `device`. Image files stay on disk."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images, drawn anew for each image in every pass.

    Attributes:
        padding: Black pixels added on every side. A random window of the original size is then cut out.
        flip: Whether half of the images are mirrored left to right.
        cutout: Side, in pixels, of a square set to the training mean (0 after normalisation); 0 for no square. Its
            centre is a random pixel of the image, so that a part of the square may lie outside.

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
    """An image dataset as it is stored, before any training image is held out.

    Attributes:
        classes: Number of classes.
        train: All training images.
        test: The test images.
        augmentation: How training images are augmented.
        validation: Default number of held-out training images.
        ood: Name of each OOD dataset -> function that loads its images, (M, C, H, W) uint8.
        corruptions: Names of the corruptions generated from the test images.
        statistics: Returns the channel statistics of the used training images. None if the images are in memory; the
            statistics are then computed from all of their pixels.
    """

    classes: int
    train: Split
    test: Split
    augmentation: Augmentation
    validation: int
    ood: Mapping[str, Callable[[], Images]]
    corruptions: tuple[str, ...]
    statistics: Callable[[ImageFiles], ChannelStatistics] | None = None


@dataclass(frozen=True, eq=False)
class OfficialSets:
    """The official corrupted test sets of a dataset.

    Attributes:
        read: Yields for each corruption and severity (1 to 5) their names and the images, (N, C, H, W) uint8 or files,
            in the order of the test images.
        digest: The SHA-256 of their files when they were loaded.
        compute_digest: Returns the SHA-256 of the files that lie there now, given digests computed before.
    """

    read: Callable[[], Iterator[tuple[str, int, Images]]]
    digest: str
    compute_digest: Callable[[KnownDigests | None], str]
