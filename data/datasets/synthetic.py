"""Synthetic data with the form of a real dataset, for rehearsals of a study without its downloads.

Results on synthetic data say nothing about the real dataset.
"""

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.ood import OOD_DATASETS
from data.tasks.image_dataset import Augmentation, ImageDataset, Split
from data.tasks.text_task import TextTask, make_text_task

TRAIN_IMAGES, TEST_IMAGES, OOD_IMAGES = 512, 64, 32
"""Number of training images, of test images, and of images in an OOD dataset."""
REDUCED_SIDES = {"tiny_imagenet": 16, "imagenet": 32}
"""Sides, in pixels, of the datasets whose synthetic images are smaller than the real ones."""
MAX_CLASSES = 16
"""Largest number of classes that occur. A short training on few images could not learn a thousand classes."""
PATTERN_SIDE = 4
"""Side, in pixels, of the coarse pattern that identifies a class."""
NOISE_DEVIATION = 40.0
"""Standard deviation of the noise added to a pattern, in grey levels."""
TEXT_LENGTH = 60_000
"""Number of symbols in a synthetic text."""
FOLLOWERS = 4
"""Number of symbols that can follow a symbol."""


def load_synthetic(path: str, root: Path) -> ImageDataset:
    """Generate images with the channels and classes of a downloaded dataset: 512 training and 64 test images.

    Each class has a coarse random pattern. An image is the pattern of its class with noise. At most the first 16
    classes occur. The images have the size of the real ones, except 16 pixels for TinyImageNet and 32 for ImageNet.
    OOD datasets of all known names are generated, too; their patterns belong to no class. The augmentation is that of
    the real dataset; for ImageNet, whose synthetic images are not files, it is CIFAR's.

    Args:
        path: The real dataset's name.
        root: Not used.

    Raises:
        ValueError: If the name is not that of a downloaded image dataset.
    """
    known = [name for name, shape in DOWNLOADED_SHAPES.items() if shape.image_size]
    if path not in known:
        raise ValueError(f"dataset 'synthetic:{path}': synthetic images exist in the form of {', '.join(known)}")
    channels, real, classes, _ = DOWNLOADED_SHAPES[path]
    assert channels and real
    side = REDUCED_SIDES.get(path, real)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(path.encode())))
    patterns = generator.uniform(0, 255, (classes, channels, PATTERN_SIDE, PATTERN_SIDE))
    train, test = (draw_split(patterns, side, count, generator) for count in (TRAIN_IMAGES, TEST_IMAGES))
    return ImageDataset(
        classes=classes,
        train=train,
        test=test,
        augmentation=Augmentation(padding=2) if path == "mnist" else Augmentation(padding=4, flip=True),
        validation=0,
        ood={name: partial(draw_ood_images, name, channels, side) for name in OOD_DATASETS},
        corruptions=STANDARD_CORRUPTIONS,
    )


def draw_split(patterns: np.ndarray, side: int, count: int, generator: np.random.Generator) -> Split:
    """Draw labelled images; the classes take turns.

    Args:
        patterns: (classes, channels, PATTERN_SIDE, PATTERN_SIDE), grey levels.
        side: Side of the images, in pixels.
        count: Number of images.
        generator: Generator of the noise.
    """
    labels = np.arange(count) % min(MAX_CLASSES, len(patterns))
    return Split(draw_images(patterns[labels], side, generator), torch.from_numpy(labels))


def draw_ood_images(name: str, channels: int, side: int) -> Tensor:
    """Draw the images of an OOD dataset, which belong to no class: (OOD_IMAGES, channels, side, side) uint8."""
    # The seed's text must stay as it is: the images depend on it.
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"companion {name}".encode())))
    return draw_images(generator.uniform(0, 255, (OOD_IMAGES, channels, PATTERN_SIDE, PATTERN_SIDE)), side, generator)


def draw_images(patterns: np.ndarray, side: int, generator: np.random.Generator) -> Tensor:
    """Enlarge coarse patterns and add noise: (N, channels, side, side) uint8."""
    large = F.interpolate(torch.from_numpy(patterns), (side, side), mode="bilinear", align_corners=False)
    noisy = large + torch.from_numpy(generator.normal(0, NOISE_DEVIATION, tuple(large.shape)))
    return noisy.round().clamp(0, 255).to(torch.uint8)


def load_synthetic_text(
    path: str, root: Path, *, validation: int | None = None, train_size: int | None = None, segment: int | None = None
) -> TextTask:
    """Generate a text of 60,000 symbols with the number of symbols of a downloaded text.

    Each symbol is followed by one of four symbols.

    Args:
        path: The real text's name.
        root: Not used.
        validation: As for `load_text`.
        train_size: As for `load_text`.
        segment: As for `load_text`.

    Raises:
        ValueError: If the name is not that of a downloaded text, or a number does not fit the text.
    """
    known = [name for name, shape in DOWNLOADED_SHAPES.items() if not shape.image_size]
    if path not in known:
        raise ValueError(f"dataset 'synthetic_text:{path}': a synthetic text exists in the form of {', '.join(known)}")
    classes = DOWNLOADED_SHAPES[path].classes
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(path.encode())))
    followers = generator.integers(0, classes, (classes, FOLLOWERS))
    choices = generator.integers(0, FOLLOWERS, TEXT_LENGTH)
    text = np.empty(TEXT_LENGTH, dtype=np.uint8)
    text[:classes] = np.arange(classes)  # each symbol occurs
    for i in range(classes, TEXT_LENGTH):
        text[i] = followers[text[i - 1], choices[i]]
    return make_text_task(f"synthetic_text:{path}", text, validation, train_size, segment)
