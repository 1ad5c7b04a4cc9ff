"""Noise corruptions: each value of each pixel changes independently."""

from torch import Tensor

from data.corruptions.random_numbers import RandomNumbers
from data.corruptions.severities import severity_constant


def gaussian_noise(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Add Gaussian noise of the same strength everywhere."""
    std = severity_constant(
        {32: (0.04, 0.06, 0.08, 0.09, 0.10), 64: (0.04, 0.08, 0.12, 0.15, 0.18), 224: (0.08, 0.12, 0.18, 0.26, 0.38)},
        images.shape[-1],
        severity,
    )
    return images + std * draws.normal(*images.shape[1:])


def shot_noise(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Add Poisson noise. It is stronger the fewer photons a pixel of full brightness receives."""
    photons = severity_constant(
        {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)},
        images.shape[-1],
        severity,
    )
    return draws.poisson(images * photons) / photons


def impulse_noise(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Set a share of the values to black or white, each with probability one half."""
    amount = severity_constant(
        {32: (0.01, 0.02, 0.03, 0.05, 0.07), 64: (0.01, 0.02, 0.05, 0.08, 0.14), 224: (0.03, 0.06, 0.09, 0.17, 0.27)},
        images.shape[-1],
        severity,
    )
    draw = draws.uniform(*images.shape[1:])
    return images.masked_fill(draw < amount, 0.0).masked_fill(draw < amount / 2, 1.0)


def speckle_noise(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Add Gaussian noise in proportion to the brightness."""
    std = severity_constant(
        {32: (0.06, 0.1, 0.12, 0.16, 0.2), 64: (0.15, 0.2, 0.25, 0.3, 0.35), 224: (0.15, 0.2, 0.35, 0.45, 0.6)},
        images.shape[-1],
        severity,
    )
    return images + images * std * draws.normal(*images.shape[1:])
