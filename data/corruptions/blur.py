"""Blur corruptions: each pixel becomes a mean of the pixels around it, or one of them."""

import numpy as np
import torch
from torch import Tensor

from data.corruptions.filters import correlate, gaussian_filter, gaussian_matrix, motion_filter, zoom_centre
from data.corruptions.random_numbers import RandomNumbers
from data.corruptions.severities import length_scale, severity_constant


def gaussian_blur(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Blur with a Gaussian kernel that is truncated at four standard deviations. Edge pixels are repeated outwards."""
    size = images.shape[-1]
    sigma = severity_constant(
        {32: (0.4, 0.6, 0.7, 0.8, 1), 64: (0.5, 0.75, 1, 1.25, 1.5), 224: (1, 2, 3, 4, 6)}, size, severity
    )
    return gaussian_filter(images, sigma * length_scale(size))


def defocus_blur(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Blur like a lens out of focus: each point becomes a disk with a soft edge."""
    size = images.shape[-1]
    radius, softness = severity_constant(
        {
            32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
            224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        },
        size,
        severity,
    )
    return correlate(images, disk_kernel(radius * length_scale(size), softness * length_scale(size)))


def disk_kernel(radius: float, softness: float) -> Tensor:
    """Return the kernel of a lens out of focus: a disk of the given radius, blurred by a narrow Gaussian kernel.

    Returns:
        (17, 17) float64 for a radius of up to 8 pixels, else larger.
    """
    reach = 8 if radius <= 8 else int(np.ceil(radius))
    square = torch.arange(-reach, reach + 1).double() ** 2
    inside = (square[:, None] + square <= radius**2).double()
    blur = gaussian_matrix(2 * reach + 1, softness, "mirror", radius=1 if radius <= 8 else 2)
    return blur @ (inside / inside.sum()) @ blur.T


def glass_blur(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Blur like frosted glass: replace each pixel by a random neighbour, between two slight Gaussian blurs.

    The published program is meant to swap each pixel with a neighbour. Both sides of its assignment are views of one
    array, so that it copies the neighbour instead. The published files were made so, and this function does the same.
    """
    # Deviation: the published program rounds down to 256 levels before it copies.
    size = images.shape[-1]
    sigma, reach, rounds = severity_constant(
        {
            32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
            64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
            224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        },
        size,
        severity,
    )
    sigma, reach = sigma * length_scale(size), max(1, round(reach * length_scale(size)))
    images = gaussian_filter(images, sigma)
    for _ in range(rounds):
        images = copy_neighbours(images, draws.integers(-reach, reach, 2, size, size), reach)
    return gaussian_filter(images, sigma)


def copy_neighbours(images: Tensor, offsets: Tensor, reach: int) -> Tensor:
    """Overwrite each pixel with a neighbour, from the last row and column to the first.

    The result equals that of a loop over the pixels. A neighbour that the loop has already overwritten is traced to the
    source of its value. For this, a table of sources holds each pixel twice, before and after it is overwritten, and is
    composed with itself until it does not change.

    Args:
        images: (N, C, H, H).
        offsets: (N, 2, H, H) int64 from -reach to reach - 1: row and column of the neighbour relative to the pixel.
        reach: Largest offset. The first reach + 1 and the last reach - 1 rows and columns are not overwritten.
    """
    n, channels, size, _ = images.shape
    along = torch.arange(size, device=images.device)
    moved = (along > reach) & (along <= size - reach)
    moved = (moved[:, None] & moved).flatten()  # (P,) with P = H · H pixels
    pixel = torch.arange(size * size, device=images.device)
    neighbour = pixel + (offsets[:, 0] * size + offsets[:, 1]).flatten(1)  # (N, P)
    neighbour = torch.where(moved, neighbour, pixel)
    after = torch.where(
        neighbour > pixel, neighbour + size * size, neighbour
    )  # a neighbour further back is already overwritten
    source = torch.cat([pixel.expand(n, -1), after], 1)  # (N, 2 P): before, after
    while True:
        further = source.gather(1, source)
        if torch.equal(further, source):
            break
        source = further
    chosen = source[:, None, size * size :].expand(-1, channels, -1)
    return images.flatten(2).gather(2, chosen).view_as(images)


def motion_blur(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Blur like a moving camera: smear towards one side, at a random angle of up to 45° to the rows."""
    size = images.shape[-1]
    radius, sigma = severity_constant(
        {
            32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
            224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        },
        size,
        severity,
    )
    angle = draws.uniform(low=-45, high=45)
    return motion_filter(images, round(radius * length_scale(size)), sigma * length_scale(size), angle)


def zoom_blur(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Blur like a camera that moves towards the object: take the mean of the image and its enlargements.

    Enlarged sizes are rounded to whole pixels. On images of 8 pixels, severity 1 therefore changes nothing.
    """
    size = images.shape[-1]
    small = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    large = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    stop, step = severity_constant({32: small, 64: small, 224: large}, size, severity)
    # By the rounding in NumPy's range, the end is included for 1.06 and 1.11, but not for 1.16.
    factors = np.arange(1, stop, step).tolist()
    total = images.clone()
    for factor in factors:
        total += zoom_centre(images, factor)
    return total / (len(factors) + 1)
