"""Digital corruptions: contrast, saturation, JPEG compression, pixelation and elastic deformation."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.corruptions.filters import box_matrix, gaussian_filter, sample_bilinear
from data.corruptions.random_numbers import RandomNumbers
from data.corruptions.severities import nearest_published_size, severity_constant


def contrast(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Reduce the contrast: move each channel towards its mean over the image."""
    large = (0.4, 0.3, 0.2, 0.1, 0.05)
    factor = severity_constant({32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: large, 224: large}, images.shape[-1], severity)
    mean = images.double().mean((2, 3), keepdim=True).float()
    return (images - mean) * factor + mean


def saturate(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Scale and shift the saturation S (of hue, saturation, value). Needs colour images.

    Raises:
        ValueError: If the images are grey.
    """
    if images.shape[1] != 3:
        raise ValueError(f"saturate needs colour images (3 channels), found {images.shape[1]}")
    factor, shift = severity_constant(
        {
            32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
            64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
            224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        },
        images.shape[-1],
        severity,
    )
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    span = value - least
    saturation = span / value.clamp(min=1e-6)
    # A channel is V · (1 − S · pull), where `pull` depends on the hue only. By convention, grey has the hue of red.
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device).view(1, 3, 1, 1)
    pull = torch.where(span > 0, (value - images) / span.clamp(min=1e-6), red)
    return value * (1 - (saturation * factor + shift).clamp(0, 1) * pull)


def jpeg_compression(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Encode as JPEG and decode again.

    Pillow processes the images one by one on the CPU, because the codec of a GPU gives other pixels.
    """
    quality = severity_constant(
        {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)}, images.shape[-1], severity
    )
    levels = images.mul(255).round().to(torch.uint8).cpu()
    decoded = torch.stack([_code_and_decode(image, quality) for image in levels])
    return decoded.to(images.device).float() / 255


def _code_and_decode(levels: Tensor, quality: int) -> Tensor:
    """Encode one image, (C, H, H) uint8, as JPEG and decode it."""
    coded = io.BytesIO()
    pixels = levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(coded, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(coded)))
    return decoded[None] if decoded.ndim == 2 else decoded.permute(2, 0, 1)


def pixelate(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Reduce the image to fewer pixels, and enlarge it again without interpolation."""
    size = images.shape[-1]
    share = severity_constant(
        {32: (0.95, 0.9, 0.85, 0.75, 0.65), 64: (0.9, 0.8, 0.7, 0.6, 0.5), 224: (0.6, 0.5, 0.4, 0.3, 0.25)},
        size,
        severity,
    )
    matrix = box_matrix(size, max(1, int(size * share))).to(images.device)
    # Like Pillow, round to whole levels (halves up) after the rows and again after the columns.
    rows = (images.double() * 255 @ matrix.T + 0.5).floor()
    small = (matrix @ rows + 0.5).floor() / 255
    nearest = ((torch.arange(size, device=images.device) + 0.5) * small.shape[-1] / size).long()
    return small[:, :, nearest][:, :, :, nearest].float()


def elastic_transform(images: Tensor, severity: int, draws: RandomNumbers) -> Tensor:
    """Apply a small random affine map, then a random smooth deformation.

    All published lengths are shares of the image's side.
    """
    size = images.shape[-1]
    strength, smoothness, shift = severity_constant(
        {
            32: ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
            64: ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
            224: ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        },
        size,
        severity,
    )
    # The published constants for 224 pixels are shares of 244. This is a slip of the program, kept here.
    side = size * 244 / 224 if nearest_published_size(size) == 224 else size
    along = torch.arange(size, device=images.device, dtype=torch.float64)
    places = affine_sources(along, draws.uniform(3, 2, low=-shift * side, high=shift * side).double())  # (N, 2, H, H)
    images = sample_bilinear(images, places[:, 1].float(), places[:, 0].float(), "mirror")
    field = gaussian_filter(draws.uniform(2, size, size, low=-1, high=1), smoothness * side, "reflect", truncate=3)
    bend = (field * (strength * side)).double()
    return sample_bilinear(images, (along[:, None] + bend[:, 1]).float(), (along + bend[:, 0]).float(), "reflect")


def affine_sources(along: Tensor, moves: Tensor) -> Tensor:
    """Return the source of each pixel under the affine map that moves three points by given distances.

    The points are the lower right, upper right and upper left corners of a square around the centre, half of whose side
    is a third of the image's side.

    Args:
        along: (H,) the positions 0 … H - 1, float64.
        moves: (N, 3, 2) float64: distance that each point moves along x and y, in pixels.

    Returns:
        (N, 2, H, H): x and y of each pixel's source.
    """
    size = len(along)
    centre, half = size // 2, max(1, size // 3)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, -1]], dtype=torch.float64, device=along.device)
    moved = centre + half * corners + moves  # (N, 3, 2)
    across = (moved[:, 1] - moved[:, 2]) / (2 * half)  # image of a unit step along x, (N, 2)
    down = (moved[:, 0] - moved[:, 1]) / (2 * half)
    determinant = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0])[:, None, None]
    dx = along - moved[:, 2, 0, None, None]  # (N, 1, H), relative to the upper left point
    dy = along[:, None] - moved[:, 2, 1, None, None]  # (N, H, 1)
    x = (dx * down[:, 1, None, None] - dy * down[:, 0, None, None]) / determinant
    y = (dy * across[:, 0, None, None] - dx * across[:, 1, None, None]) / determinant
    return torch.stack([x, y], 1) + (centre - half)
