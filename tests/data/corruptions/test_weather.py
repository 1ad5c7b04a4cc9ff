import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.corruptions import textures
from data.corruptions.filters import motion_filter
from data.corruptions.weather import _FROST
from tests.data.corruptions.corrupt_images import SEVERITIES, apply, close, colours, draws, photographs, published

LUMINANCE = np.array([0.299, 0.587, 0.114])


def naive_plasma(noise, size, decay):
    """Run the diamond-square algorithm point by point, on a periodic map."""
    side = len(noise)
    heights = np.zeros((side, side))
    step, strength = side, 1.0
    while step >= 2:
        half = step // 2

        def mean_around(row, column, offsets, distance=half):
            around = [heights[(row + r * distance) % side, (column + c * distance) % side] for r, c in offsets]
            return sum(around) / 4 + strength * noise[row, column]  # noqa: B023

        for row in range(half, side, step):
            for column in range(half, side, step):
                heights[row, column] = mean_around(row, column, ((-1, -1), (-1, 1), (1, -1), (1, 1)))
        for row in range(0, side, half):
            for column in range(half if row % step == 0 else 0, side, step):
                heights[row, column] = mean_around(row, column, ((-1, 0), (1, 0), (0, -1), (0, 1)))
        step, strength = half, strength / decay**2
    heights -= heights.min()
    return (heights / heights.max())[:size, :size]


@pytest.mark.parametrize(("size", "side"), [(2, 2), (8, 8), (28, 32), (32, 32), (33, 64)])
def test_plasma(size, side):
    found = textures.plasma(draws(2), size, 1.75)
    noise = draws(2).uniform(side, side, low=-1, high=1)
    assert found.shape == (2, 1, size, size)
    for own, heights in zip(noise, found, strict=True):
        close(heights[0], naive_plasma(own.double().numpy(), size, 1.75))


FOG = {
    8: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    130: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(FOG))
def test_fog(size, severity, constants):
    amount, decay = constants
    images = colours(1, size) * 0.7
    side = 2 ** math.ceil(math.log2(size))
    noise = draws(1).uniform(side, side, low=-1, high=1)[0].double().numpy()
    top = images.max().item()
    expected = (images.double().numpy() + amount * naive_plasma(noise, size, decay)) * top / (top + amount)
    close(apply("fog", images, severity), expected)


SNOW = {
    32: (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    48: (  # three quarters of the lengths for 64 pixels
        (0.1, 0.2, 1, 0.6, 6, 2.25, 0.8),
        (0.1, 0.2, 1, 0.5, 8, 3, 0.8),
        (0.15, 0.3, 1.3125, 0.55, 8, 3, 0.7),
        (0.25, 0.3, 1.6875, 0.6, 9, 4.5, 0.65),
        (0.3, 0.3, 1, 0.65, 10, 9, 0.6),
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


@pytest.mark.parametrize(("size", "severity", "constants"), published(SNOW))
@pytest.mark.parametrize("channels", [1, 3])
def test_snow(size, severity, constants, channels):
    mean, std, zoom, threshold, radius, sigma, keep = constants
    image = photographs(size, channels)[1:]
    own = draws(1)
    noise = mean + std * own.normal(1, size, size)[0, 0].double().numpy()
    cut = math.ceil(size / zoom)
    top = (size - cut) // 2
    flakes = ndimage.zoom(noise[top : top + cut, top : top + cut], zoom, order=1)
    trim = (len(flakes) - size) // 2
    flakes = flakes[trim : trim + size, trim : trim + size]
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    angle = own.uniform(low=-135, high=-45)
    # `motion_filter` itself is held to a plain loop in the tests of the filters.
    fallen = motion_filter(torch.from_numpy(flakes).float()[None, None], radius, sigma, angle)[0, 0].numpy()
    clear = image[0].double().numpy()
    grey = np.tensordot(LUMINANCE, clear, 1) if channels == 3 else clear[0]
    expected = keep * clear + (1 - keep) * np.maximum(clear, 1.5 * grey + 0.5) + fallen + fallen[::-1, ::-1]
    found = apply("snow", image, severity)[0]
    # A flake whose brightness is the threshold's to within rounding may be there or not.
    assert (found.double() - torch.from_numpy(expected)).abs().gt(1e-4).float().mean() < 0.01


FROST = {
    32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(FROST))
def test_frost_has_the_photographs_colours_and_spread(size, severity, constants):
    keep, weight = constants
    n = 10 if size == 224 else 40
    black = torch.zeros(n, 3, size, size)
    ice = apply("frost", black, severity) / weight
    close(apply("frost", black + 0.5, severity), keep * 0.5 + weight * ice.numpy())
    kinds = draws(n).integers(0, 5)
    assert n == 10 or set(kinds.tolist()) == set(range(5))
    for kind, own in zip(kinds.tolist(), ice, strict=True):
        mean, std = _FROST[kind]
        close(own.mean((1, 2)) * 255, mean, 3)  # a little is clipped
        close(own.std((1, 2)) * 255, [std] * 3, 4)
    assert 0 <= ice.min() < ice.max() <= 1
    grey = apply("frost", black[:, :1], severity) / weight
    close(grey.mean((1, 2, 3)), ice.mean((2, 3)).double().numpy() @ LUMINANCE, 0.01)


@pytest.mark.parametrize(("size", "roughness"), [(32, 0.8), (64, 0.7), (224, 0.4)])
def test_ice_is_as_rough_as_in_photographs(size, roughness):
    ice = textures.ice_texture(draws(20), size)
    close(ice.mean((1, 2, 3)), np.zeros(20))
    close(ice.var((1, 2, 3), correction=0), np.ones(20), 1e-4)
    assert ice.diff(dim=3).abs().mean().item() == pytest.approx(roughness, abs=0.07)


SPATTER = {
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
    96: (  # half as wide again as for 64 pixels, and the noise half as strong again
        (0.62, 0.15, 1.05, 0.7, 0.6),
        (0.65, 0.15, 1.2, 0.7, 0.6),
        (0.65, 0.45, 1.5, 0.69, 0.6),
        (0.65, 0.15, 1.05, 0.68, 0.9),
        (0.65, 0.15, 0.75, 0.67, 0.9),
    ),
    224: (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    ),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(SPATTER))
def test_spatter(size, severity, constants):
    mean, std, sigma, threshold, strength = constants
    images = colours(3, size) * 0.3
    noise = mean + std * draws(3).normal(1, size, size).double().numpy()
    liquid = ndimage.gaussian_filter(noise, sigma, mode="nearest", truncate=4, axes=(2, 3))
    wet = liquid >= threshold
    found = apply("spatter", images, severity)
    added = (found - images).double().numpy()
    if severity <= 3:
        dry = np.broadcast_to(~wet, added.shape)
        assert np.abs(added[dry]).max() < 1e-6
        assert added.min() >= -1e-6
        # The brightest drop of each image has the colour of water at the given strength.
        water = np.array([175, 238, 238]) / 255 * strength
        brightest = added.max((2, 3))[wet.any((1, 2, 3))]
        close(brightest, np.tile(water, (len(brightest), 1)))
    else:
        cover = ndimage.gaussian_filter(wet.astype(float), strength, mode="nearest", truncate=4, axes=(2, 3))
        cover = np.where(cover < 0.8, 0, cover)
        mud = np.array([63, 42, 20])[:, None, None] / 255
        close(found, images.double().numpy() * (1 - cover) + mud * cover, 1e-5)
    # Grey images show the drops in the luminance of their colour.
    grey = torch.full((3, 1, size, size), 0.3)
    drops, grey_drops = apply("spatter", grey.expand(-1, 3, -1, -1), severity), apply("spatter", grey, severity)
    close(grey_drops[:, 0], np.tensordot(LUMINANCE, drops.double().numpy(), (0, 1)))


# cv2.Canny(levels, 50, 150) of OpenCV 5.0 for these levels. Of 62 pixels above 50, 41 are above 150, and 51 are edges.
CANNY = (
    "................",
    ".........###...#",
    ".......##...##.#",
    ".......#......#.",
    ".......#.....#..",
    ".......#....##..",
    "................",
    "........####...#",
    ".......##...##.#",
    ".......#......#.",
    "......#.......#.",
    "......###...##.#",
    "...............#",
    "##.......###....",
    "..##...##...##.#",
    ".......#.....#..",
)


def test_edges_are_opencvs():
    row, column = np.mgrid[:16, :16].astype(float)
    levels = np.floor(127 + 120 * np.sin(row / 2) * np.cos(column / 3) * (row + column) / 30)
    found = textures.canny_edges(torch.from_numpy(levels).float()[None, None])[0, 0]
    assert ["".join("#" if edge else "." for edge in line) for line in found] == list(CANNY)


def test_distance_is_scipys():
    marked = torch.rand(4, 1, 50, 50, generator=torch.Generator().manual_seed(0)) < torch.tensor(
        [0.1, 0.01, 0.001, 0.0]
    ).view(4, 1, 1, 1)
    found = textures.distance_transform(marked, 20)
    for own, distances in zip(marked[:3], found, strict=False):
        close(distances[0], ndimage.distance_transform_edt(~own[0].numpy()).clip(max=20))
    assert (found[3] == 20).all()


def test_equalised_levels():
    levels = torch.tensor([[[[0.0, 5, 5], [7, 7, 7], [9, 9, 20]]], [[[4.0, 4, 4], [4, 4, 4], [4, 4, 4]]]])
    found = textures.equalise_histogram(levels)
    # OpenCV's rule: (pixels up to this level - pixels of the lowest) / (all pixels - pixels of the lowest) · 255
    assert found[0].flatten().tolist() == [0, 64, 64, 159, 159, 159, 223, 223, 255]
    assert (found[1] == 0).all()


def test_relief_lights_the_lower_right_of_a_drop():
    liquid = torch.zeros(1, 1, 24, 24)
    liquid[..., 6:18, 6:18] = 0.8
    relief = textures.shade_drops(liquid)
    assert 0 <= relief.min() < relief.max() <= 255
    inside = relief[0, 0, 6:18, 6:18]
    close(relief, relief.mT.numpy(), 0)  # the light falls along the diagonal
    rising, falling = inside[:5, :5].mean(), inside[-5:, -5:].mean()
    assert rising > 2 * falling


def test_weather_differs_between_images():
    same = photographs(32)[:1].repeat(2, 1, 1, 1)
    for name in ("snow", "frost", "fog", "spatter"):
        for severity in SEVERITIES[1:]:
            one, other = apply(name, same, severity)
            assert not torch.equal(one, other)
