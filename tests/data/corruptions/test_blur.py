import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.corruptions.blur import copy_neighbours, disk_kernel
from tests.data.corruptions.corrupt_images import SEVERITIES, apply, close, colours, draws, photographs, published

GAUSSIAN = {
    8: (0.4, 0.6, 0.7, 0.8, 1),  # lengths are not reduced below 32 pixels
    32: (0.4, 0.6, 0.7, 0.8, 1),
    64: (0.5, 0.75, 1, 1.25, 1.5),
    96: (0.75, 1.125, 1.5, 1.875, 2.25),  # half as much again
    224: (1, 2, 3, 4, 6),
}


@pytest.mark.parametrize(("size", "severity", "sigma"), published(GAUSSIAN))
def test_gaussian_blur(size, severity, sigma):
    images = colours(2, size)
    expected = ndimage.gaussian_filter(images.double().numpy(), sigma, mode="nearest", truncate=4, axes=(2, 3))
    close(apply("gaussian_blur", images, severity), expected)


DEFOCUS = {
    32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    48: ((0.375, 0.45), (0.75, 0.075), (1.125, 0.075), (1.875, 0.0075), (2.25, 0.075)),
    64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
}


def naive_disk(radius, softness):
    reach = 8 if radius <= 8 else math.ceil(radius)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for row, column in np.ndindex(kernel.shape):
        kernel[row, column] = math.hypot(row - reach, column - reach) <= radius
    width = 1 if radius <= 8 else 2
    blur = np.exp(-(np.arange(-width, width + 1) ** 2) / (2 * softness**2))
    blurred = ndimage.correlate1d(kernel / kernel.sum(), blur / blur.sum(), axis=0, mode="mirror")
    return ndimage.correlate1d(blurred, blur / blur.sum(), axis=1, mode="mirror")


@pytest.mark.parametrize(("size", "severity", "constants"), published(DEFOCUS))
def test_defocus_blur(size, severity, constants):
    kernel = naive_disk(*constants)
    close(disk_kernel(*constants), kernel, 1e-12)
    images = colours(1, size, 1)
    expected = ndimage.correlate(images[0, 0].double().numpy(), kernel, mode="mirror")
    close(apply("defocus_blur", images, severity)[0, 0], expected)


def copied_one_by_one(image, offsets, reach):
    """Run the published loop: from the last pixel to the first, copy the neighbour's current value."""
    image = image.copy()  # (H, H, C)
    size = len(image)
    for row in range(size - reach, reach, -1):
        for column in range(size - reach, reach, -1):
            down, right = offsets[:, row, column]
            # As published: both sides are views of one array, so that this copies and does not swap.
            here, there = (row, column), (row + down, column + right)
            image[here], image[there] = image[there], image[here]
    return image


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_pixels_are_copied_as_in_the_loop(reach):
    images = colours(3, 13)
    offsets = torch.randint(-reach, reach, (3, 2, 13, 13), generator=torch.Generator().manual_seed(reach))
    found = copy_neighbours(images, offsets, reach)
    for image, own, expected in zip(images, offsets, found, strict=True):
        loop = copied_one_by_one(image.permute(1, 2, 0).numpy(), own.numpy(), reach)
        assert np.array_equal(loop, expected.permute(1, 2, 0).numpy())
    assert torch.equal(copy_neighbours(images[:, :1], offsets, reach), found[:, :1])


GLASS = {
    32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    128: ((0.4, 1, 2), (0.5142857, 1, 1), (0.5714286, 1, 3), (0.6285714, 2, 2), (0.8571429, 2, 2)),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(GLASS))
def test_glass_blur(size, severity, constants):
    sigma, reach, rounds = constants
    images = colours(1, size)
    offsets = draws(1)
    expected = images[0].permute(1, 2, 0).double().numpy()
    expected = ndimage.gaussian_filter(expected, sigma, mode="nearest", axes=(0, 1))
    for _ in range(rounds):
        expected = copied_one_by_one(expected, offsets.integers(-reach, reach, 2, size, size)[0].numpy(), reach)
    expected = ndimage.gaussian_filter(expected, sigma, mode="nearest", axes=(0, 1))
    close(apply("glass_blur", images, severity)[0].permute(1, 2, 0), expected)


# The mean distance in steps along the direction is that of half a normal kernel cut off at twice the radius.
MOTION = {
    32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(MOTION))
def test_motion_blur(size, severity, constants):
    radius, sigma = constants
    angle = math.radians(draws(1).uniform(low=-45, high=45).item())
    point = torch.zeros(1, 1, size, size)
    point[..., size // 2, size // 2] = 1
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    rows = size // 2 - np.ceil(steps * math.sin(angle) - 0.5).astype(int)
    columns = size // 2 - np.ceil(steps * math.cos(angle) - 0.5).astype(int)
    expected = np.zeros((size, size))
    inside = columns >= 0  # what is smeared out of the image is lost but for the edge's own, which is empty
    np.add.at(expected, (rows[inside], columns[inside]), weights[inside])
    close(apply("motion_blur", point, severity)[0, 0], expected, 1e-6)


def test_motion_goes_at_most_45_degrees_up_or_down():
    image = torch.zeros(200, 1, 32, 32)
    image[..., 16, 20] = 1
    moved = apply("motion_blur", image, 5)[:, 0]
    along = torch.arange(32.0)
    rows, columns = (moved.sum(2) * along).sum(1) - 16, (moved.sum(1) * along).sum(1) - 20
    angles = torch.rad2deg(torch.atan2(-rows, -columns))
    assert (angles.min().item(), angles.max().item()) == pytest.approx((-45, 45), abs=4)
    assert angles.mean().abs() < 5


# How many copies, and by how much one is larger than the one before. By NumPy's rounding, the published ranges up to
# 1.06 and 1.11 include their end, those up to 1.16, 1.21 and 1.26 do not.
COPIES = ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01))
ZOOM = {32: COPIES, 64: COPIES, 224: ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))}


@pytest.mark.parametrize(("size", "severity", "copies"), published(ZOOM))
def test_zoom_blur(size, severity, copies):
    count, step = copies
    image = photographs(size, 1)[:1]
    total = image[0, 0].double().numpy().copy()
    for i in range(count):
        factor = 1 + i * ((1 + step) - 1)  # to the last bit NumPy's: 32 / 1.25 would be rounded otherwise
        cut = math.ceil(size / factor)
        top = (size - cut) // 2
        enlarged = ndimage.zoom(image[0, 0, top : top + cut, top : top + cut].double().numpy(), factor, order=1)
        trim = (len(enlarged) - size) // 2
        total += enlarged[trim : trim + size, trim : trim + size]
    close(apply("zoom_blur", image, severity)[0, 0], total / (count + 1))


def test_blur_leaves_an_even_image():
    even = torch.full((2, 3, 32, 32), 0.4)
    for name in ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"):
        for severity in SEVERITIES:
            torch.testing.assert_close(apply(name, even, severity), even)
