import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tests.data.corruptions.corrupt_images import SEVERITIES, apply, close, colours, draws, photographs, published

LARGE = (0.4, 0.3, 0.2, 0.1, 0.05)
CONTRAST = {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: LARGE, 224: LARGE}


@pytest.mark.parametrize(("size", "severity", "factor"), published(CONTRAST))
def test_contrast_shrinks_about_each_channels_mean(size, severity, factor):
    images = colours(2, size)
    changed = apply("contrast", images, severity)
    torch.testing.assert_close(changed.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(changed.std((2, 3)), images.std((2, 3)) * factor)


def through_hsv(images, change):
    """Change hue, saturation and value pixel by pixel with the standard library."""
    pixels = images.movedim(1, -1)  # (N, H, W, 3)
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*rgb))) for rgb in pixels.reshape(-1, 3).tolist()]
    return torch.tensor(changed, dtype=images.dtype).view(pixels.shape).movedim(-1, 1)


def with_special_pixels(size):
    images = colours(1, size)
    images[0, :, 0, 0] = 0  # black
    images[0, :, 0, 1] = 0.4  # grey
    images[0, :, 0, 2] = 1  # white
    images[0, :, 0, 3] = torch.tensor([1.0, 0, 0])  # red
    return images


LARGE_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
BRIGHTNESS = {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: LARGE_BRIGHTNESS, 224: LARGE_BRIGHTNESS}


@pytest.mark.parametrize(("size", "severity", "amount"), published(BRIGHTNESS))
def test_brightness(size, severity, amount):
    images = with_special_pixels(size)
    if size < 224:
        expected = through_hsv(images, lambda h, s, v: (h, s, min(1, v + amount)))
        torch.testing.assert_close(apply("brightness", images, severity), expected, rtol=0, atol=1e-5)
    grey = images[:, :1]
    torch.testing.assert_close(apply("brightness", grey, severity), (grey + amount).clamp(max=1))


SATURATE = {
    8: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    120: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(SATURATE))
def test_saturate(size, severity, constants):
    factor, shift = constants
    images = with_special_pixels(size)
    if size > 32:
        images = images * 0.01 + 0.5  # a faint colour, so that a factor of 20 differs from one of 30
    expected = through_hsv(images, lambda h, s, v: (h, min(1, s * factor + shift), v))
    torch.testing.assert_close(apply("saturate", images, severity), expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"saturate needs colour images \(3 channels\), found 1"):
        apply("saturate", images[:, :1], severity)


def pillow(image):
    """A Pillow image of (C, H, H) in [0, 1]."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def unpillow(image):
    pixels = np.asarray(image) / 255
    return np.moveaxis(pixels if pixels.ndim == 3 else pixels[..., None], 2, 0)


QUALITY = {
    8: (80, 65, 58, 50, 40),
    32: (80, 65, 58, 50, 40),
    64: (65, 58, 50, 40, 25),
    224: (25, 18, 15, 10, 7),
}


@pytest.mark.parametrize(("size", "severity", "quality"), published(QUALITY))
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_compression(size, severity, quality, channels):
    images = photographs(size, channels)
    for image, found in zip(images, apply("jpeg_compression", images, severity), strict=True):
        coded = io.BytesIO()
        pillow(image).save(coded, "JPEG", quality=quality)
        close(found, unpillow(Image.open(coded)), 1e-6)


PIXELS = {
    8: (7, 7, 6, 6, 5),
    32: (30, 28, 27, 24, 20),
    64: (57, 51, 44, 38, 32),
    224: (134, 112, 89, 67, 56),
}


@pytest.mark.parametrize(("size", "severity", "pixels"), published(PIXELS))
@pytest.mark.parametrize("channels", [1, 3])
def test_pixelate_is_pillows(size, severity, pixels, channels):
    images = (photographs(size, channels) * 255).round() / 255
    for image, found in zip(images, apply("pixelate", images, severity), strict=True):
        small = pillow(image).resize((pixels, pixels), Image.BOX)
        close(found, unpillow(small.resize((size, size), Image.BOX)), 1e-6)


ELASTIC = {
    32: ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    40: ((0, 0, 3.2), (2, 8, 2.8), (3.2, 2.4, 2.4), (4, 1.6, 2), (4, 1.2, 1.2)),
    64: ((0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)),
    224: ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
}


@pytest.mark.parametrize(("size", "severity", "constants"), published(ELASTIC))
def test_elastic_transform(size, severity, constants):
    """Deform an image with SciPy and a linear solver; strength, smoothness and shift are in pixels."""
    strength, smoothness, shift = constants
    image = photographs(size, 1)[:1]
    own = draws(1)
    moves = own.uniform(3, 2, low=-shift, high=shift)[0].double().numpy()
    noise = own.uniform(2, size, size, low=-1, high=1)[0].double().numpy()
    centre, half = size // 2, size // 3
    points = np.array([[centre + half, centre + half], [centre + half, centre - half], [centre - half, centre - half]])
    ones = np.ones((3, 1))
    # (x, y, 1) of a moved point @ back = (x, y) of the point
    back = np.linalg.solve(np.hstack([points + moves, ones]), points)
    y, x = np.mgrid[:size, :size].astype(float)
    origin = np.stack([x, y, np.ones_like(x)], -1) @ back
    places = [origin[..., 1], origin[..., 0]]
    turned = ndimage.map_coordinates(image[0, 0].double().numpy(), places, order=1, mode="mirror")
    bend = [strength * ndimage.gaussian_filter(field, smoothness, mode="reflect", truncate=3) for field in noise]
    expected = ndimage.map_coordinates(turned, [y + bend[1], x + bend[0]], order=1, mode="reflect")
    close(apply("elastic_transform", image, severity)[0, 0], expected, 2e-4)


def test_elastic_transform_bends_each_image_and_all_its_channels_alike():
    grey = photographs(32, 1)
    bent = apply("elastic_transform", grey.expand(-1, 3, -1, -1).contiguous(), 4)
    assert torch.equal(bent[:, :1], apply("elastic_transform", grey, 4))
    assert torch.equal(bent[:, 0], bent[:, 2])
    same = apply("elastic_transform", grey[:1].expand(2, -1, -1, -1).contiguous(), 4)
    assert (same[0] - same[1]).abs().mean() > 0.01


def test_an_even_image_stays_even():
    even = torch.full((2, 3, 32, 32), 51 / 255)
    for name in ("contrast", "pixelate", "elastic_transform"):
        for severity in SEVERITIES:
            torch.testing.assert_close(apply(name, even, severity), even, rtol=0, atol=1e-5)
