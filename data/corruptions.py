"""Corruptions of test images, generated with the constants published for 32-pixel images.

The constants and formulas are those of the program that made CIFAR-10-C. The random numbers are not, and no JPEG or
ImageMagick is involved, so results measured here are results on *generated* corruptions: never quote them as
CIFAR-10-C.

References:
    Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR
    2019, and the program make_cifar_c.py beside it.
"""

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# (images in [0, 1] (N, C, H, W), severity 1…5, random numbers) -> images, not yet clipped to [0, 1]
Corruption = Callable[[Tensor, int, Generator], Tensor]

# Images corrupted together: bounds the memory, and is part of what the random numbers depend on.
_CHUNK = 2500


def gaussian_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add normal noise of the same strength everywhere."""
    std = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + std * torch.randn(images.shape, generator=generator)


def shot_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Count photons: Poisson noise, stronger the fewer photons a pixel of full brightness receives."""
    photons = (500.0, 250.0, 100.0, 75.0, 50.0)[severity - 1]
    return torch.poisson(images * photons, generator=generator) / photons


def impulse_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Set a share of the values to black or white, each with probability one half."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    draw = torch.rand(images.shape, generator=generator)
    return images.masked_fill(draw < amount, 0.0).masked_fill(draw < amount / 2, 1.0)


def speckle_noise(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add normal noise in proportion to the brightness."""
    std = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    return images + images * std * torch.randn(images.shape, generator=generator)


def gaussian_blur(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Blur with a normal kernel, cut off at four standard deviations; the edge pixels are repeated outwards."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    h, w = images.shape[2:]
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate")
    # Sums of shifted images, rows then columns: on a CPU far faster than a convolution with so few channels.
    rows = sum((weight * padded[:, :, i : i + h] for i, weight in enumerate(kernel)), torch.zeros(()))
    return sum((weight * rows[:, :, :, i : i + w] for i, weight in enumerate(kernel)), torch.zeros(()))


def brightness(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Raise the value V of hue-saturation-value; for a grey image, which is its V, this is an addition."""
    amount = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = images.amax(1, keepdim=True)  # (N, 1, H, W)
    raised = (value + amount).clamp(max=1.0)
    # At fixed hue and saturation the channels grow with V; black has no saturation and becomes grey.
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


def contrast(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Shrink every channel towards its own mean over the image."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def saturate(images: Tensor, severity: int, generator: Generator) -> Tensor:
    """Scale and shift the saturation S of hue-saturation-value; colour images only."""
    factor, shift = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    if images.shape[1] != 3:
        raise ValueError(f"saturate needs colour images (3 channels), found {images.shape[1]}")
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    span = value - least
    saturation = span / value.clamp(min=1e-6)
    # A pixel is V · (1 − S · pull), where hue fixes each channel's pull; grey has the hue of red by convention.
    red = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    pull = torch.where(span > 0, (value - images) / span.clamp(min=1e-6), red)
    return value * (1 - (saturation * factor + shift).clamp(0, 1) * pull)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "brightness": brightness,
    "contrast": contrast,
    "saturate": saturate,
}


def corrupt(images: Tensor, name: str, severity: int) -> Tensor:
    """Corrupt images; the same name, severity and images give the same result on every device.

    Args:
        images: (N, C, H, W) uint8.
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).

    Returns:
        The corrupted images, (N, C, H, W) uint8, on the device of `images`.

    Raises:
        ValueError: If the name or the severity is unknown.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}: known are {', '.join(CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise ValueError(f"corruption {name}: severity must be 1, 2, 3, 4 or 5, got {severity}")
    generator = Generator().manual_seed(zlib.crc32(f"{name} {severity}".encode()))
    result = torch.empty_like(images)
    for chunk, out in zip(torch.split(images, _CHUNK), torch.split(result, _CHUNK), strict=True):
        floats = chunk.cpu().contiguous().float() / 255  # all arithmetic on the CPU, for equal bits everywhere
        changed = CORRUPTIONS[name](floats, severity, generator)
        # Deviation: rounded to the nearest of 256 levels; the published program cuts the fraction off.
        out.copy_(changed.clamp(0, 1).mul(255).round())
    return result
