"""Made-up data in the form of a real dataset, to rehearse a study where the real one is missing or too much.

Nothing that is measured on them says anything about the real data.
"""

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.downloaded import DOWNLOADED
from data.datasets.ood import OOD_DATASETS
from data.tasks.image_dataset import Augmentation, ImageDataset, Split
from data.tasks.text_task import TextTask, make_text_task

TRAIN, TEST, COMPANION = 512, 64, 32
"""How many images there are."""
SIDES = {"tiny_imagenet": 16, "imagenet": 32}
"""Sides of images that are smaller than the real ones, in pixels."""
OCCURRING = 16
"""Classes that occur, at most: of a thousand, a short training on few images would find none."""
COARSE = 4
"""Side of the coarse pattern that tells a class."""
NOISE = 40.0
"""Standard deviation of the noise on it, in grey levels."""
SYMBOLS = 60_000
"""Length of the made-up text."""
FOLLOWERS = 4
"""How many symbols can follow one."""


def load_synthetic(path: str, root: Path) -> ImageDataset:
    """Made-up images with the channels and classes of the downloaded dataset PATH: 512 to train on, 64 to test on.

    A class is a coarse random pattern, an image its class's pattern under noise; of many classes, the first 16 occur.
    They have the real ones' size, or 16 pixels for TinyImageNet and 32 for ImageNet. Companions of any name are
    patterns of no class. They are augmented as the real ones are; ImageNet's, which are no files, as CIFAR's.

    Args:
        path: The dataset's name.
        root: Not used.

    Raises:
        ValueError: If it is none of images that are downloaded.
    """
    known = [name for name, shape in DOWNLOADED.items() if shape.image_size]
    if path not in known:
        raise ValueError(f"dataset 'synthetic:{path}': synthetic images exist in the form of {', '.join(known)}")
    channels, real, classes, _ = DOWNLOADED[path]
    assert channels and real
    side = SIDES.get(path, real)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(path.encode())))
    patterns = generator.uniform(0, 255, (classes, channels, COARSE, COARSE))
    train, test = (make_split(patterns, side, count, generator) for count in (TRAIN, TEST))
    return ImageDataset(
        classes=classes,
        train=train,
        test=test,
        augmentation=Augmentation(padding=2) if path == "mnist" else Augmentation(padding=4, flip=True),
        validation=0,
        ood={name: partial(make_ood_images, name, channels, side) for name in OOD_DATASETS},
        corruptions=STANDARD_CORRUPTIONS,
    )


def make_split(patterns: np.ndarray, side: int, count: int, generator: np.random.Generator) -> Split:
    """Draw so many images, the classes in turn.

    Args:
        patterns: (classes, channels, COARSE, COARSE), grey levels.
        side: of the images, in pixels.
        count: how many.
        generator: of the noise.
    """
    labels = np.arange(count) % min(OCCURRING, len(patterns))
    return Split(draw(patterns[labels], side, generator), torch.from_numpy(labels))


def make_ood_images(name: str, channels: int, side: int) -> Tensor:
    """Draw images of no class: (COMPANION, channels, side, side) uint8."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"companion {name}".encode())))
    return draw(generator.uniform(0, 255, (COMPANION, channels, COARSE, COARSE)), side, generator)


def draw(patterns: np.ndarray, side: int, generator: np.random.Generator) -> Tensor:
    """Enlarge coarse patterns and put noise on them: (N, channels, side, side) uint8."""
    large = F.interpolate(torch.from_numpy(patterns), (side, side), mode="bilinear", align_corners=False)
    noisy = large + torch.from_numpy(generator.normal(0, NOISE, tuple(large.shape)))
    return noisy.round().clamp(0, 255).to(torch.uint8)


def load_synthetic_text(
    path: str, root: Path, *, validation: int | None = None, train_size: int | None = None, segment: int | None = None
) -> TextTask:
    """A made-up text with the symbols of the downloaded one PATH: each is followed by one of four, 60,000 in all.

    Args:
        path: The text's name.
        root: Not used.
        validation: As for `load_text`.
        train_size: As for `load_text`.
        segment: As for `load_text`.

    Raises:
        ValueError: If it is no text that is downloaded, or a number does not fit it.
    """
    known = [name for name, shape in DOWNLOADED.items() if not shape.image_size]
    if path not in known:
        raise ValueError(f"dataset 'synthetic_text:{path}': a synthetic text exists in the form of {', '.join(known)}")
    classes = DOWNLOADED[path].classes
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(path.encode())))
    followers = generator.integers(0, classes, (classes, FOLLOWERS))
    choices = generator.integers(0, FOLLOWERS, SYMBOLS)
    text = np.empty(SYMBOLS, dtype=np.uint8)
    text[:classes] = np.arange(classes)  # each occurs
    for i in range(classes, SYMBOLS):
        text[i] = followers[text[i - 1], choices[i]]
    return make_text_task(f"synthetic_text:{path}", text, validation, train_size, segment)
