"""Generates the standard corruptions of test images with the published constants.

The constants and formulas are those of the programs that made CIFAR-10-C and CIFAR-100-C (32 pixels), Tiny-ImageNet-C
(64) and ImageNet-C (224). The random numbers differ from theirs, the frost is synthetic, and other deviations are noted
at their function. Results measured here are therefore results on *generated* corruptions: never quote them as results
on CIFAR-10-C or similar. `data.datasets.official_corruptions` reads the official files.

References:
    Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019,
    section 4.1, and the programs beside it: make_cifar_c.py, make_tinyimagenet_c.py and make_imagenet_c.py of the
    repository hendrycks/robustness.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from data.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from data.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate, saturate
from data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from data.corruptions.random_numbers import RandomNumbers
from data.corruptions.severities import SEVERITIES
from data.corruptions.weather import brightness, fog, frost, snow, spatter

__all__ = ["CORRUPTIONS", "EXTRA_CORRUPTIONS", "SEVERITIES", "STANDARD_CORRUPTIONS", "Corruption", "Draws", "corrupt"]

# (images in [0, 1] (N, C, H, H), severity 1…5, random numbers) -> images, not yet clipped to [0, 1]
Corruption = Callable[[Tensor, int, RandomNumbers], Tensor]

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}

STANDARD_CORRUPTIONS = tuple(CORRUPTIONS)[:15]
"""The 15 corruptions of the mean corruption error."""

EXTRA_CORRUPTIONS = tuple(CORRUPTIONS)[15:]
"""Four further corruptions, published for validation. `saturate` needs colour images."""

# Number of pixel values that are corrupted together. It limits the memory (30 to 90 bytes per value, 320 for snow on 8
# pixels) and changes no result. A CPU is fastest with few values, which stay in its cache, a GPU with more.
_VALUES_AT_ONCE_ON_CPU, _VALUES_AT_ONCE = 2**18, 2**22


@torch.no_grad()
def corrupt(images: Tensor, name: str, severity: int, *, start: int = 0) -> Tensor:
    """Corrupt images. Never quote a result on them as a result on the official files.

    The result for an image depends on the corruption, the severity, the image and its index in the test set, but not on
    the other images of the call. A test set may therefore be corrupted in parts, each with its own `start`.

    The computation runs on the device of the images, except for JPEG. The random numbers are the same on every device;
    rounding may differ by one level for single pixels. Image sizes other than 32, 64 and 224 pixels use the constants
    of the nearest size by ratio, with lengths in pixels scaled in proportion (see `data.corruptions.severities`).

    Args:
        images: (N, C, H, H) uint8, C 1 or 3.
        name: A key of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        start: Index of the first image in the test set.

    Returns:
        The corrupted images, (N, C, H, H) uint8, on the device of `images`.

    Raises:
        ValueError: If the name or the severity is unknown, the images have another type or shape, or a corruption that
            needs colour images gets grey ones.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}: known are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"corruption {name}: severity must be 1, 2, 3, 4 or 5, got {severity}")
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise ValueError(f"corruption {name}: images must be uint8 (N, 1 or 3, H, H), found {images.dtype} {shape}")
    result = torch.empty_like(images)
    values = images.shape[1:].numel()
    step = max(1, (_VALUES_AT_ONCE_ON_CPU if images.device.type == "cpu" else _VALUES_AT_ONCE) // values)
    for first in range(0, len(images), step):
        chunk = images[first : first + step].contiguous().float() / 255
        indices = range(start + first, start + first + len(chunk))
        changed = CORRUPTIONS[name](chunk, severity, RandomNumbers(f"{name} {severity}", indices, images.device))
        # Deviation: rounded to the nearest of 256 levels. The published programs round down.
        result[first : first + step] = changed.clamp(0, 1).mul(255).round()
    return result
