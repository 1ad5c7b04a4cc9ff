"""Filters and resampling of whole batches, each image exactly as if it were alone.

To that end, matrices M with out = M x Mᵀ for the rows and columns of an image x are multiplied in float64: in float32,
the last bits of a product may depend on how many images are multiplied together, and would show after rounding. And a
product and a sum are two steps, because one fused step may be rounded differently at the end of a batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["nearest", "reflect", "mirror"]
"""What lies left of (a b c), in SciPy's words: nearest … a a, reflect … b a, mirror … c b."""


def beyond(index: Tensor, size: int, border: Border) -> Tensor:
    """The positions 0 … size - 1 that stand for positions of any distance beyond the edge."""
    if border == "nearest":
        return index.clamp(0, size - 1)
    period = 2 * size if border == "reflect" else max(1, 2 * size - 2)
    index = index.remainder(period)
    return torch.minimum(index, (period - 1 if border == "reflect" else period) - index)


def pad(images: Tensor, width: int, border: Border) -> Tensor:
    """Continue images (..., H, W) by `width` pixels on every side."""
    height, length = images.shape[-2:]
    along = torch.arange(-width, max(height, length) + width, device=images.device)
    rows = beyond(along[: height + 2 * width], height, border)
    columns = beyond(along[: length + 2 * width], length, border)
    return images[..., rows, :][..., columns]


def separable(images: Tensor, matrix: Tensor) -> Tensor:
    """M x Mᵀ of every image: (..., n, n) float32 and (m, n) float64 to (..., m, m) float32."""
    matrix = matrix.to(images.device)
    return (matrix @ images.double() @ matrix.T).float()


def smoothing(size: int, sigma: float, border: Border, truncate: float = 4.0, radius: int | None = None) -> Tensor:
    """The matrix (size, size) of a normal kernel, cut off at `truncate` standard deviations (or at a given radius).

    Args:
        size: Pixels along the image.
        sigma: Standard deviation in pixels; 0 changes nothing.
        border: What lies beyond the edge.
        truncate: Where the kernel ends, in standard deviations, rounded to whole pixels.
        radius: Where the kernel ends, in pixels, instead.
    """
    reach = int(truncate * sigma + 0.5) if radius is None else radius
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2) if reach else torch.ones(1, dtype=torch.float64)
    sources = beyond(torch.arange(size)[:, None] + offsets, size, border)  # (size, 2 · reach + 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, sources, (kernel / kernel.sum()).expand(size, -1).contiguous())


def gaussian(images: Tensor, sigma: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """Blur images (..., H, H) with a normal kernel of the standard deviation `sigma` in pixels."""
    return separable(images, smoothing(images.shape[-1], sigma, border, truncate))


def zoom(images: Tensor, factor: float) -> Tensor:
    """Cut out the middle 1 / factor of images (..., H, H) and enlarge it to the full size.

    Linear interpolation between pixel centres, corners onto corners, as `scipy.ndimage.zoom(order=1)` has it; what
    the enlarged cut has beyond H pixels is trimmed evenly.
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
    for _ in range(2):  # the rows; then, transposed, the columns
        below = images.index_select(-2, lower)
        images = (below + share * (images.index_select(-2, upper) - below)).mT
    return images


def box(size: int, smaller: int) -> Tensor:
    """The matrix (smaller, size) of Pillow's BOX filter: the mean of the pixels whose centres fall into a box."""
    scale = size / smaller
    centre = (torch.arange(smaller, dtype=torch.float64)[:, None] + 0.5) * scale
    along = torch.arange(size)
    inside = (along >= (centre - scale / 2 + 0.5).floor()) & (along < (centre + scale / 2 + 0.5).floor())
    return inside.double() / inside.double().sum(1, keepdim=True)


def correlate(images: Tensor, kernel: Tensor, border: Border = "mirror") -> Tensor:
    """Sum of images (..., H, W) shifted by every place of an odd square kernel, weighted by its value there.

    On a CPU, and with so few channels, that is far faster than a convolution.
    """
    reach = kernel.shape[0] // 2
    height, width = images.shape[-2:]
    padded = pad(images, reach, border)
    out = torch.zeros_like(images)
    for row, column in kernel.nonzero().tolist():
        out += kernel[row, column].item() * padded[..., row : row + height, column : column + width]
    return out


def motion(images: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Smear every image in one direction, as ImageMagick's MotionBlurImage does.

    Each pixel becomes a mean of those that lie 0, 1, … 2 · radius pixels away from it at its image's angle (rounded to
    whole pixels; the edge pixels are repeated outwards), with the weights of one half of a normal kernel.

    Args:
        images: (N, C, H, H).
        radius: Pixels.
        sigma: Standard deviation of the kernel in pixels.
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
    # A view of every window of the padded images: taking one of each image copies whole rows.
    windows = pad(images, 2 * radius, "nearest").unfold(2, size, 1).unfold(3, size, 1)
    image = torch.arange(n, device=images.device)
    out = torch.zeros_like(images)
    for step, weight in enumerate(weights.tolist()):
        out += weight * windows[image, :, rows[:, step], columns[:, step]]
    return out


def sample(images: Tensor, rows: Tensor, columns: Tensor, border: Border) -> Tensor:
    """Read images (N, C, H, H) at places (N, H, H) between their pixels, interpolating linearly.

    Args:
        images: (N, C, H, H).
        rows: Row of each place, in pixels.
        columns: Column of each place, in pixels.
        border: "reflect" or "mirror".
    """
    size = images.shape[-1]
    mirror = border == "mirror"
    grid = torch.stack([columns, rows], -1)
    grid = 2 * grid / max(1, size - 1) - 1 if mirror else (2 * grid + 1) / size - 1
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=mirror)
