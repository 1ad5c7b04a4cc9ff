"""Filters and resampling of batches, in which the bits of an image do not depend on the other images.

Filters of rows and columns are matrices M with out = M x Mᵀ, multiplied in float64. In float32, the last bits of a
product may depend on the number of images, which could be visible after rounding. A product and a sum are two separate
steps, because a fused step may be rounded differently at the end of a batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]
"""How an image is continued beyond its edge, in SciPy's terms.

To the left of (a b c) lies: nearest … a a, reflect … b a, mirror … c b.
"""


def border_index(index: Tensor, size: int, border: Border) -> Tensor:
    """Return the positions 0 … size - 1 whose pixels are used for positions inside or beyond the edge."""
    if border == "nearest":
        return index.clamp(0, size - 1)
    period = 2 * size if border == "reflect" else max(1, 2 * size - 2)
    index = index.remainder(period)
    return torch.minimum(index, (period - 1 if border == "reflect" else period) - index)


def pad(images: Tensor, width: int, border: Border) -> Tensor:
    """Extend images (..., H, W) by `width` pixels on every side."""
    height, length = images.shape[-2:]
    along = torch.arange(-width, max(height, length) + width, device=images.device)
    rows = border_index(along[: height + 2 * width], height, border)
    columns = border_index(along[: length + 2 * width], length, border)
    return images[..., rows, :][..., columns]


def apply_along_both(images: Tensor, matrix: Tensor) -> Tensor:
    """Return M x Mᵀ for each image x: (..., n, n) float32 and M (m, n) float64 to (..., m, m) float32."""
    matrix = matrix.to(images.device)
    return (matrix @ images.double() @ matrix.T).float()


def gaussian_matrix(
    size: int, sigma: float, border: Border, truncate: float = 4.0, radius: int | None = None
) -> Tensor:
    """Return the matrix (size, size) of a truncated Gaussian kernel.

    Args:
        size: Side of the image, in pixels.
        sigma: Standard deviation, in pixels. With 0 the matrix is the identity.
        border: How the image is continued beyond its edge.
        truncate: Radius of the kernel in standard deviations; it is rounded to whole pixels.
        radius: Radius of the kernel in pixels, in place of `truncate`.
    """
    reach = int(truncate * sigma + 0.5) if radius is None else radius
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2) if reach else torch.ones(1, dtype=torch.float64)
    sources = border_index(torch.arange(size)[:, None] + offsets, size, border)  # (size, 2 · reach + 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, sources, (kernel / kernel.sum()).expand(size, -1).contiguous())


def gaussian_filter(images: Tensor, sigma: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """Blur images (..., H, H) with a Gaussian kernel whose standard deviation is `sigma` pixels."""
    return apply_along_both(images, gaussian_matrix(images.shape[-1], sigma, border, truncate))


def zoom_centre(images: Tensor, factor: float) -> Tensor:
    """Crop the central 1 / factor of images (..., H, H) and enlarge it to the full size.

    Pixels are interpolated linearly with corners mapped onto corners, as in `scipy.ndimage.zoom(order=1)`. If the
    enlarged crop has more than H pixels, it is trimmed evenly on both sides.
    """
    size = images.shape[-1]
    cut = math.ceil(size / factor)
    enlarged = round(cut * factor)
    place = torch.arange(size, dtype=torch.float64) + (enlarged - size) // 2
    place = (size - cut) // 2 + place * ((cut - 1) / max(1, enlarged - 1))
    lower = place.floor().long().clamp(0, size - 1)
    share = (place - lower).float()[:, None].to(images.device)
    lower = lower.to(images.device)
    upper = (lower + 1).clamp(max=size - 1)
    for _ in range(2):  # first the rows, then the columns of the transposed images
        below = images.index_select(-2, lower)
        images = (below + share * (images.index_select(-2, upper) - below)).mT
    return images


def box_matrix(size: int, smaller: int) -> Tensor:
    """Return the matrix (smaller, size) of Pillow's BOX filter, the mean of the pixels whose centres lie in a box."""
    scale = size / smaller
    centre = (torch.arange(smaller, dtype=torch.float64)[:, None] + 0.5) * scale
    along = torch.arange(size)
    inside = (along >= (centre - scale / 2 + 0.5).floor()) & (along < (centre + scale / 2 + 0.5).floor())
    return inside.double() / inside.double().sum(1, keepdim=True)


def correlate(images: Tensor, kernel: Tensor, border: Border = "mirror") -> Tensor:
    """Correlate images (..., H, W) with a square kernel of odd size.

    The result is a sum of shifted images, weighted by the kernel's values. With few channels on a CPU, this is much
    faster than a convolution.
    """
    reach = kernel.shape[0] // 2
    height, width = images.shape[-2:]
    padded = pad(images, reach, border)
    out = torch.zeros_like(images)
    for row, column in kernel.nonzero().tolist():
        out += kernel[row, column].item() * padded[..., row : row + height, column : column + width]
    return out


def motion_filter(images: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Smear each image in one direction, as ImageMagick's MotionBlurImage does.

    Each pixel becomes a weighted mean of the pixels at the distances 0, 1, … 2 · radius in the direction of the image's
    angle. Positions are rounded to whole pixels, and edge pixels are repeated outwards. The weights are one half of a
    Gaussian kernel.

    Args:
        images: (N, C, H, H).
        radius: Half of the largest distance, in pixels.
        sigma: Standard deviation of the kernel, in pixels.
        angle: (N,) in degrees, clockwise from the right.
    """
    n, _, size, _ = images.shape
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    turn = torch.deg2rad(angle.double())[:, None]  # (N, 1)
    steps = steps.to(images.device)
    rows = (torch.ceil(steps * turn.sin() - 0.5)).long() + 2 * radius  # (N, 2 · radius + 1)
    columns = (torch.ceil(steps * turn.cos() - 0.5)).long() + 2 * radius
    # A view of all windows of the padded images. Selecting one window per image copies whole rows.
    windows = pad(images, 2 * radius, "nearest").unfold(2, size, 1).unfold(3, size, 1)
    image = torch.arange(n, device=images.device)
    out = torch.zeros_like(images)
    for step, weight in enumerate(weights.tolist()):
        out += weight * windows[image, :, rows[:, step], columns[:, step]]
    return out


def sample_bilinear(images: Tensor, rows: Tensor, columns: Tensor, border: Border) -> Tensor:
    """Sample images (N, C, H, H) at positions between their pixels, with bilinear interpolation.

    Args:
        images: (N, C, H, H).
        rows: (N, H, H) row of each position, in pixels.
        columns: (N, H, H) column of each position, in pixels.
        border: "reflect" or "mirror".
    """
    size = images.shape[-1]
    mirror = border == "mirror"
    grid = torch.stack([columns, rows], -1)
    grid = 2 * grid / max(1, size - 1) - 1 if mirror else (2 * grid + 1) / size - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=mirror)
