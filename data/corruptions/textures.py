"""Textures of the weather corruptions: clouds, ice, and light on drops."""

import torch
import torch.nn.functional as F
from torch import Tensor

from data.corruptions.filters import correlate
from data.corruptions.random_numbers import RandomNumbers


def plasma(draws: RandomNumbers, size: int, decay: float) -> Tensor:
    """Draw clouds (a plasma fractal) with the diamond-square algorithm: (N, 1, size, size) from 0 to 1.

    The midpoints of smaller and smaller squares are the mean of the four points around them plus a random number. The
    map is continued periodically. The random numbers become weaker by decay² at each halving of the squares.

    Args:
        draws: Random numbers of N images.
        size: Side of the result, in pixels. The computed map has the next power of two as its side; its upper left
            part is returned.
        decay: A larger number makes smoother clouds.
    """
    side = 1 << max(1, (size - 1).bit_length())
    noise = draws.uniform(side, side, low=-1, high=1)
    heights = torch.zeros_like(noise)  # (N, side, side)
    step, strength = side, 1.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        centres = (pairs + pairs.roll(-1, 2)) / 4 + strength * noise[:, half::step, half::step]
        heights[:, half::step, half::step] = centres
        tops = (centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)) / 4
        heights[:, ::step, half::step] = tops + strength * noise[:, ::step, half::step]
        lefts = (centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)) / 4
        heights[:, half::step, ::step] = lefts + strength * noise[:, half::step, ::step]
        step, strength = half, strength / decay**2
    heights = heights - heights.amin((1, 2), keepdim=True)
    heights = heights / heights.amax((1, 2), keepdim=True)
    return heights[:, None, :size, :size]


def ice_texture(draws: RandomNumbers, size: int) -> Tensor:
    """Draw ice, bright ridges that branch at all scales: (N, 1, size, size), mean 0 and standard deviation 1 per image.

    The decays are chosen so that neighbouring pixels differ as much as in photographs of frost: by 0.8, 0.7 and 0.4
    standard deviations on average at 32, 64 and 224 pixels.
    """
    ridges = 1 - (2 * plasma(draws, size, 1.15) - 1).abs()
    ridges = (ridges**3 + 0.5 * plasma(draws, size, 1.05)).double()
    ridges = ridges - ridges.mean((2, 3), keepdim=True)
    return (ridges / ridges.square().mean((2, 3), keepdim=True).sqrt().clamp(min=1e-6)).float()


def shade_drops(liquid: Tensor) -> Tensor:
    """Return the light on drops: (N, 1, H, H) from 0 to 255, bright where the surface faces the lower right.

    The height of a drop at a pixel is the distance from the drop's edge. The heights are equalised and embossed.

    Args:
        liquid: (N, 1, H, H) from 0 (dry) to 1.
    """
    ones = torch.ones(3, 3)
    # Deviation: the exact distance. The published program uses OpenCV's approximation with a mask of 5 x 5.
    height = distance_transform(canny_edges((liquid * 255).floor().clamp(max=255)), limit=20)
    height = equalise_histogram((correlate(height, ones) / 9).floor())
    emboss = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
    return (correlate(correlate(height, emboss).clamp(0, 255), ones) / 9).round()


def canny_edges(levels: Tensor, low: float = 50, high: float = 150) -> Tensor:
    """Find edges with Canny's algorithm as OpenCV does: (N, 1, H, H) booleans.

    Args:
        levels: (N, 1, H, H) from 0 to 255.
        low: Threshold that the gradient exceeds at each pixel of an edge. The gradient is the sum of the absolute
            values of Sobel's two filters.
        high: Threshold that the gradient exceeds somewhere along an edge.
    """
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    dx, dy = correlate(levels, sobel, "nearest"), correlate(levels, sobel.T, "nearest")
    gradient = dx.abs() + dy.abs()
    size = levels.shape[-1]
    around = F.pad(gradient, (1, 1, 1, 1))

    def neighbour(row: int, column: int) -> Tensor:
        return around[..., 1 + row : 1 + row + size, 1 + column : 1 + column + size]

    # Only the ridge of the gradient is kept: a pixel must exceed both neighbours along its gradient.
    across = (gradient > neighbour(0, -1)) & (gradient >= neighbour(0, 1))
    down = (gradient > neighbour(-1, 0)) & (gradient >= neighbour(1, 0))
    falling = (gradient > neighbour(-1, -1)) & (gradient > neighbour(1, 1))
    rising = (gradient > neighbour(-1, 1)) & (gradient > neighbour(1, -1))
    steep = 2**0.5 - 1  # tangent of 22.5°
    ridge = torch.where(dx * dy < 0, rising, falling)
    ridge = torch.where(dy.abs() < steep * dx.abs(), across, ridge)
    ridge = torch.where(dx.abs() < steep * dy.abs(), down, ridge)
    weak = ridge & (gradient > low)
    found = weak & (gradient > high)
    while True:
        grown = F.max_pool2d(found.float(), 3, stride=1, padding=1).bool() & weak
        if torch.equal(grown, found):
            return found
        found = grown


def distance_transform(marked: Tensor, limit: int) -> Tensor:
    """Return the distance to the nearest marked pixel, at most `limit` pixels: (N, 1, H, H) float32."""
    squared = torch.where(marked, 0.0, float(limit**2))
    for axis in (2, 3):  # the squared distance is a minimum over rows of minima over columns
        near = squared.clone()
        for step in range(1, min(limit, marked.shape[axis])):
            length = marked.shape[axis] - step
            for to, of in ((0, step), (step, 0)):
                part = near.narrow(axis, to, length)
                torch.minimum(part, squared.narrow(axis, of, length) + step**2, out=part)
        squared = near
    return squared.sqrt()


def equalise_histogram(levels: Tensor) -> Tensor:
    """Equalise the histogram of each image, so that the levels 0 to 255 are about equally frequent: (N, 1, H, H)."""
    values = levels.flatten(1)
    rank = torch.searchsorted(values.sort(1).values, values, right=True)  # number of pixels of this level or below
    least = rank.amin(1, keepdim=True)
    spread = (rank - least) * 255 / (values.shape[1] - least).clamp(min=1)
    return spread.round().view_as(levels)
