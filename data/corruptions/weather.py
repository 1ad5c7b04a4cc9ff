"""Weather corruptions: snow, frost, fog, brightness, and drops on the lens."""

import torch
from torch import Tensor

from data.corruptions.filters import gaussian_filter, motion_filter, zoom_centre
from data.corruptions.random_numbers import RandomNumbers
from data.corruptions.severities import length_scale, severity_constant
from data.corruptions.textures import ice_texture, plasma, shade_drops

_LUMINANCE = (0.299, 0.587, 0.114)

# Mean and standard deviation of the noise, its enlargement, the smallest brightness of a flake, radius and standard
# deviation of the flakes' motion, and the weight of the image that is not whitened.
_SNOW = {
    32: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    64: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    224: (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}


def snow(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Whiten the image and add two layers of snowflakes, smeared by their motion."""
    # Deviation: the published program rounds the layers down to 256 levels before and after their motion.
    size = images.shape[-1]
    mean, std, granularity, threshold, radius, sigma, keep = severity_constant(_SNOW, size, severity)
    scale = length_scale(size)
    flakes = mean + std * draws.normal(1, size, size)
    flakes = zoom_centre(flakes, max(1.0, granularity * scale))
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    flakes = motion_filter(flakes, round(radius * scale), sigma * scale, draws.uniform(low=-135, high=-45))
    whitened = torch.maximum(images, luminance(images) * 1.5 + 0.5)
    return keep * images + (1 - keep) * whitened + flakes + flakes.rot90(2, (2, 3))


def luminance(images: Tensor) -> Tensor:
    """Return the perceived brightness, (N, 1, H, W). That of a grey image is the image itself."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


# The five photographs of frost in the published program: the means of red, green and blue, and the standard deviation
# within one crop, from 0 to 255. The program uses the second photograph twice.
_FROST = (
    ((78, 149, 165), 15),
    ((198, 203, 212), 19),
    ((198, 203, 212), 19),
    ((144, 159, 172), 25),
    ((102, 113, 125), 34),
)


def frost(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Lay ice over the image: synthetic random ridges in the colours of photographs of frost."""
    # Deviation: the published program lays crops of five photographs over the image, which we may not distribute. The
    # synthetic ice has the mean colour, the standard deviation and the roughness of one of them.
    size = images.shape[-1]
    keep, weight = severity_constant(
        {
            32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
            64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
            224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        },
        size,
        severity,
    )
    colours = torch.tensor([mean for mean, _ in _FROST], device=images.device)[:, :, None, None] / 255
    if images.shape[1] == 1:
        colours = luminance(colours)
    spread = torch.tensor([std for _, std in _FROST], device=images.device)[:, None, None, None] / 255
    photograph = draws.integers(0, len(_FROST))
    ice = colours[photograph] + spread[photograph] * ice_texture(draws, size)
    return keep * images + weight * ice.clamp(0, 1)


def fog(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Add a cloud to the image, and scale the sum back to the image's maximum."""
    size = images.shape[-1]
    amount, decay = severity_constant(
        {
            32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
            64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
            224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        },
        size,
        severity,
    )
    top = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * plasma(draws, size, decay)) * top / (top + amount)


def brightness(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Raise the value V (of hue, saturation, value). A grey image is its own V, to which a constant is added."""
    large = (0.1, 0.2, 0.3, 0.4, 0.5)
    amount = severity_constant({32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: large, 224: large}, images.shape[-1], severity)
    value = images.amax(1, keepdim=True)  # (N, 1, H, W)
    raised = (value + amount).clamp(max=1.0)
    # At fixed hue and saturation, the channels are proportional to V. Black has no saturation and becomes grey.
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-6)), raised)


_WATER, _MUD = (175, 238, 238), (63, 42, 20)  # red, green, blue

# Mean and standard deviation of the noise, its blur, the threshold of wet pixels, and the strength of water or blur of
# mud.
_SPATTER = {
    32: (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    ),
    64: (
        (0.62, 0.1, 0.7, 0.7, 0.6),
        (0.65, 0.1, 0.8, 0.7, 0.6),
        (0.65, 0.3, 1, 0.69, 0.6),
        (0.65, 0.1, 0.7, 0.68, 0.6),
        (0.65, 0.1, 0.5, 0.67, 0.6),
    ),
    224: (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    ),
}


def spatter(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Splash water (severities 1 to 3) or mud (4 and 5) on the lens.

    The noise of the drops is stronger where its blur is scaled up, so that the same share of the image is wet.
    """
    size = images.shape[-1]
    mean, std, sigma, threshold, strength = severity_constant(_SPATTER, size, severity)
    scale = length_scale(size)
    liquid = gaussian_filter(mean + std * scale * draws.normal(1, size, size), sigma * scale)
    liquid = liquid.masked_fill(liquid < threshold, 0.0)
    colour = images.new_tensor(_WATER if severity <= 3 else _MUD).view(1, 3, 1, 1) / 255
    if images.shape[1] == 1:
        colour = luminance(colour)
    if severity <= 3:
        shine = liquid * shade_drops(liquid)
        return images + strength * shine / shine.amax((2, 3), keepdim=True).clamp(min=1e-6) * colour
    cover = gaussian_filter((liquid > threshold).float(), strength * scale)
    cover = cover.masked_fill(cover < 0.8, 0.0)
    return images * (1 - cover) + colour * cover
