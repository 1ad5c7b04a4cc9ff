"""The published constants for an image size and a severity, and the scale of lengths in pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

SEVERITIES = (1, 2, 3, 4, 5)
"""Severities, from mild to strong."""

PUBLISHED_SIZES = (32, 64, 224)
"""Image sizes that have published constants: those of CIFAR-C, Tiny-ImageNet-C and ImageNet-C."""


def nearest_published_size(size: int) -> int:
    """Return the published image size that is nearest to `size` by ratio; its constants are used.

    It is 32 up to 45 pixels, 64 up to 119, and 224 above.
    """
    return min(PUBLISHED_SIZES, key=lambda known: abs(math.log(size / known)))


def severity_constant(table: Mapping[int, Sequence[T]], size: int, severity: int) -> T:
    """Return the constant of one severity (1 to 5) from a table {published size: five constants}."""
    return table[nearest_published_size(size)][severity - 1]


def length_scale(size: int) -> float:
    """Return the factor of published lengths in pixels, such as a radius, for images of `size` pixels.

    This is our choice, because the published program supports its three sizes only. Lengths are in proportion to the
    image, so that the same share of an object is blurred. Images of fewer than 32 pixels use the lengths for 32 pixels,
    because a blur narrower than a pixel changes nothing.
    """
    return size / nearest_published_size(size) if size > PUBLISHED_SIZES[0] else 1.0
