"""The filters against SciPy, Pillow and plain loops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from data.corruptions.filters import (
    apply_along_both,
    border_index,
    box_matrix,
    correlate,
    gaussian_filter,
    motion_filter,
    pad,
    sample_bilinear,
    zoom_centre,
)
from tests.data.corruptions.corrupt_images import close, colours

PAD = {"nearest": "edge", "reflect": "symmetric", "mirror": "reflect"}


@pytest.mark.parametrize("border", PAD)
@pytest.mark.parametrize("width", [0, 2, 5, 23])
def test_borders(border, width):
    images = colours(2, 5)
    close(pad(images, width, border), np.pad(images, ((0, 0), (0, 0), (width,) * 2, (width,) * 2), PAD[border]), 0)
    assert border_index(torch.tensor([-3, 0, 9]), 1, border).tolist() == [0, 0, 0]


@pytest.mark.parametrize("sigma", [0, 0.1, 0.4, 1, 2.5, 12])
@pytest.mark.parametrize("border", PAD)
@pytest.mark.parametrize("size", [4, 9])
def test_gaussian_is_scipys(sigma, border, size):
    images = colours(2, size)
    for truncate in (3.0, 4.0):
        expected = ndimage.gaussian_filter(images.double().numpy(), sigma, mode=border, truncate=truncate, axes=(2, 3))
        close(gaussian_filter(images, sigma, border, truncate), expected, 1e-7)


@pytest.mark.parametrize("size", [4, 8, 28, 32, 64, 224])
@pytest.mark.parametrize("factor", [1, 1.01, 1.06, 1.12, 1.25, 1.3, 1.75, 2.25, 4.5])
def test_zoom_is_scipys_of_the_centre(size, factor):
    image = colours(1, size, 1)
    cut = math.ceil(size / factor)
    top = (size - cut) // 2
    middle = image[0, 0, top : top + cut, top : top + cut].double().numpy()
    enlarged = ndimage.zoom(middle, factor, order=1)
    trim = (len(enlarged) - size) // 2
    expected = enlarged[trim : trim + size, trim : trim + size]
    close(zoom_centre(image, factor)[0, 0], expected, 1e-6)


@pytest.mark.parametrize(("size", "smaller"), [(32, 30), (32, 20), (64, 32), (28, 26), (8, 5), (8, 8), (224, 67)])
def test_box_is_pillows(size, smaller):
    image = colours(1, size, 1)[0, 0]
    expected = np.asarray(Image.fromarray(image.numpy(), "F").resize((smaller, smaller), Image.BOX))
    close(apply_along_both(image, box_matrix(size, smaller)), expected, 1e-6)


def test_correlation_is_scipys():
    kernel = torch.arange(25, dtype=torch.float64).view(5, 5) % 7
    images = colours(2, 6)
    for border in PAD:
        expected = ndimage.correlate(images.double().numpy(), kernel.numpy()[None, None], mode=border)
        close(correlate(images, kernel, border), expected, 1e-4)


@pytest.mark.parametrize("angle", [0, 30, 45, -45, -90, -135, 180, 77.7])
@pytest.mark.parametrize(("radius", "sigma"), [(1, 0.5), (3, 2.0), (9, 4.0)])
def test_motion_in_a_plain_loop(angle, radius, sigma):
    images = colours(2, 7, 2)
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
    expected = np.zeros(images.shape)
    for row, column in np.ndindex(7, 7):
        for step, weight in enumerate(weights):
            # Half a pixel goes down, as ImageMagick's rounding has it.
            from_row = row + math.ceil(step * math.sin(math.radians(angle)) - 0.5)
            from_column = column + math.ceil(step * math.cos(math.radians(angle)) - 0.5)
            from_row, from_column = min(max(from_row, 0), 6), min(max(from_column, 0), 6)
            expected[:, :, row, column] += weight / sum(weights) * images[:, :, from_row, from_column].numpy()
    close(motion_filter(images, radius, sigma, torch.tensor([float(angle)] * 2)), expected, 1e-6)


def test_each_image_moves_at_its_own_angle():
    images, angles = colours(3, 8), torch.tensor([10.0, -60, 170])
    together = motion_filter(images, 4, 2.0, angles)
    for image, angle, found in zip(images, angles, together, strict=True):
        assert torch.equal(motion_filter(image[None], 4, 2.0, angle[None])[0], found)


@pytest.mark.parametrize("border", ["reflect", "mirror"])
def test_sampling_is_scipys(border):
    images = colours(2, 9, 2)
    rows, columns = (torch.rand(2, 2, 9, 9, generator=torch.Generator().manual_seed(2)) * 30 - 10).unbind()
    found = sample_bilinear(images, rows, columns, border)
    for n, c in np.ndindex(2, 2):
        places = np.stack([rows[n], columns[n]]).astype(float)
        expected = ndimage.map_coordinates(images[n, c].double().numpy(), places, order=1, mode=border)
        close(found[n, c], expected, 2e-5)
