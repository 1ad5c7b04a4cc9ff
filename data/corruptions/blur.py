"""Blur: every pixel becomes a mean of those around it, or one of them."""

import numpy as np
import torch
from torch import Tensor

from data.corruptions.draws import Draws
from data.corruptions.filters import correlate, gaussian, motion, smoothing, zoom
from data.corruptions.severities import constant, length_scale


def gaussian_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Blur with a normal kernel, cut off at four standard deviations; the edge pixels are repeated outwards."""
    size = images.shape[-1]
    sigma = constant({32: (0.4, 0.6, 0.7, 0.8, 1), 64: (0.5, 0.75, 1, 1.25, 1.5), 224: (1, 2, 3, 4, 6)}, size, severity)
    return gaussian(images, sigma * length_scale(size))


def defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Put the image out of focus: each point becomes a disk with a softened rim."""
    size = images.shape[-1]
    radius, softness = constant(
        {
            32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
            224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        },
        size,
        severity,
    )
    return correlate(images, disk(radius * length_scale(size), softness * length_scale(size)))


def disk(radius: float, softness: float) -> Tensor:
    """The kernel of an image out of focus: a disk of the given radius, blurred by a narrow normal kernel.

    Returns:
        (17, 17) float64 up to a radius of 8 pixels, larger beyond.
    """
    reach = 8 if radius <= 8 else int(np.ceil(radius))
    square = torch.arange(-reach, reach + 1).double() ** 2
    inside = (square[:, None] + square <= radius**2).double()
    blur = smoothing(2 * reach + 1, softness, "mirror", radius=1 if radius <= 8 else 2)
    return blur @ (inside / inside.sum()) @ blur.T


def glass_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Look through frosted glass: each pixel takes the place of one near by, between two slight blurs.

    The published program means to swap two pixels, one after the other through the image. Both sides of its assignment
    are views of the same array, though, so what it does is to copy the neighbour; that made the published files, and
    that is done here.
    """
    # Deviation: the published program rounds down to 256 levels before it copies.
    size = images.shape[-1]
    sigma, reach, rounds = constant(
        {
            32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
            64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
            224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        },
        size,
        severity,
    )
    sigma, reach = sigma * length_scale(size), max(1, round(reach * length_scale(size)))
    images = gaussian(images, sigma)
    for _ in range(rounds):
        images = copy_neighbours(images, draws.integers(-reach, reach, 2, size, size), reach)
    return gaussian(images, sigma)


def copy_neighbours(images: Tensor, offsets: Tensor, reach: int) -> Tensor:
    """Overwrite pixel by pixel with a neighbour, from the last row and column up to those `reach` from the start.

    A neighbour that was overwritten before its turn is followed to where its value came from: every pixel stands
    twice in a table of sources, as it is before and after, and the table is composed with itself until nothing
    changes. That gives what a loop over the pixels gives.

    Args:
        images: (N, C, H, H).
        offsets: (N, 2, H, H) int64 from -reach to reach - 1: the neighbour's row and column less the pixel's.
        reach: Pixels at the upper and left edge, one less at the others, that stay what they are.
    """
    n, channels, size, _ = images.shape
    along = torch.arange(size, device=images.device)
    moved = (along > reach) & (along <= size - reach)
    moved = (moved[:, None] & moved).flatten()  # (P,) with P = H · H pixels
    pixel = torch.arange(size * size, device=images.device)
    neighbour = pixel + (offsets[:, 0] * size + offsets[:, 1]).flatten(1)  # (N, P)
    neighbour = torch.where(moved, neighbour, pixel)
    after = torch.where(neighbour > pixel, neighbour + size * size, neighbour)  # it had its turn if it lies behind
    source = torch.cat([pixel.expand(n, -1), after], 1)  # (N, 2 P): before, after
    while True:
        further = source.gather(1, source)
        if torch.equal(further, source):
            break
        source = further
    chosen = source[:, None, size * size :].expand(-1, channels, -1)
    return images.flatten(2).gather(2, chosen).view_as(images)


def motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Move the camera while the image is taken: smear towards one side at an angle of up to 45° to the row."""
    size = images.shape[-1]
    radius, sigma = constant(
        {
            32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
            224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        },
        size,
        severity,
    )
    angle = draws.uniform(low=-45, high=45)
    return motion(images, round(radius * length_scale(size)), sigma * length_scale(size), angle)


def zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Move towards the object while the image is taken: the mean of the image and its enlargements.

    Enlargements are whole pixels: on images of 8 pixels, severity 1 changes nothing.
    """
    size = images.shape[-1]
    small = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    large = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    stop, step = constant({32: small, 64: small, 224: large}, size, severity)
    # NumPy's range, whose rounding decides whether the last factor belongs to it: 1.06 and 1.11 do, 1.16 does not.
    factors = np.arange(1, stop, step).tolist()
    total = images.clone()
    for factor in factors:
        total += zoom(images, factor)
    return total / (len(factors) + 1)
