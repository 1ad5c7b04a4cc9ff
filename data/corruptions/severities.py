"""Which published constant belongs to an image size and a severity, and how lengths in pixels carry over."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

SEVERITIES = (1, 2, 3, 4, 5)
"""From mild to strong."""

PUBLISHED = (32, 64, 224)
"""The image sizes with constants of their own: CIFAR-C's, Tiny-ImageNet-C's and ImageNet-C's."""


def published_size(size: int) -> int:
    """The published image size whose constants are used for images of `size` pixels: the nearest by ratio.

    32 is used up to 45 pixels, 64 up to 119, 224 above.
    """
    return min(PUBLISHED, key=lambda known: abs(math.log(size / known)))


def constant(table: Mapping[int, Sequence[T]], size: int, severity: int) -> T:
    """The constant of one severity (1 to 5) in a table {published size: five constants}."""
    return table[published_size(size)][severity - 1]


def length_scale(size: int) -> float:
    """What a published length in pixels (a radius, a displacement) is multiplied by for images of `size` pixels.

    Our choice, for the published program knows its three sizes only: lengths are in proportion to the image, so that
    as much of an object is blurred; but images of fewer than 32 pixels keep the lengths of 32, because a blur narrower
    than a pixel changes nothing.
    """
    return size / published_size(size) if size > PUBLISHED[0] else 1.0
