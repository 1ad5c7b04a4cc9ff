import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Generator

from data.corruptions import CORRUPTIONS, corrupt

SEVERITIES = range(1, 6)


def each(*constants):
    """Severities with their constants."""
    return list(zip(SEVERITIES, constants, strict=True))


def apply(name, images, severity, seed=0):
    return CORRUPTIONS[name](images, severity, Generator().manual_seed(seed))


def colours(n=4, size=6):
    return torch.rand(n, 3, size, size, generator=Generator().manual_seed(1))


@pytest.mark.parametrize(("severity", "std"), each(0.04, 0.06, 0.08, 0.09, 0.10))
def test_gaussian_noise(severity, std):
    noise = apply("gaussian_noise", torch.full((20, 3, 32, 32), 0.5), severity) - 0.5
    assert noise.std().item() == pytest.approx(std, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize(("severity", "photons"), each(500, 250, 100, 75, 50))
def test_shot_noise(severity, photons):
    for level in (0.2, 0.8):
        noisy = apply("shot_noise", torch.full((20, 3, 32, 32), level), severity)
        assert noisy.mean().item() == pytest.approx(level, rel=0.01)
        assert noisy.var().item() == pytest.approx(level / photons, rel=0.05)


@pytest.mark.parametrize(("severity", "amount"), each(0.01, 0.02, 0.03, 0.05, 0.07))
def test_impulse_noise(severity, amount):
    noisy = apply("impulse_noise", torch.full((20, 3, 32, 32), 0.5), severity)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}
    assert (noisy == 0).float().mean().item() == pytest.approx(amount / 2, rel=0.15)
    assert (noisy == 1).float().mean().item() == pytest.approx(amount / 2, rel=0.15)


@pytest.mark.parametrize(("severity", "std"), each(0.06, 0.1, 0.12, 0.16, 0.2))
def test_speckle_noise(severity, std):
    for level in (0.3, 0.9):
        noise = apply("speckle_noise", torch.full((20, 3, 32, 32), level), severity) - level
        assert noise.std().item() == pytest.approx(level * std, rel=0.02)


@pytest.mark.parametrize(("severity", "sigma"), each(0.4, 0.6, 0.7, 0.8, 1.0))
@pytest.mark.parametrize("size", [8, 32])
def test_gaussian_blur_equals_scipy(severity, sigma, size):
    images = colours(3, size)
    expected = gaussian_filter(images.numpy(), sigma, mode="nearest", truncate=4.0, axes=(2, 3))
    torch.testing.assert_close(apply("gaussian_blur", images, severity), torch.from_numpy(expected), rtol=0, atol=1e-5)


def through_hsv(images, change):
    """Change hue, saturation and value pixel by pixel with the standard library."""
    out = images.clone()
    for n, row, column in np.ndindex(images.shape[0], *images.shape[2:]):
        hsv = colorsys.rgb_to_hsv(*images[n, :, row, column].tolist())
        out[n, :, row, column] = torch.tensor(colorsys.hsv_to_rgb(*change(*hsv)))
    return out


def with_special_pixels():
    images = colours()
    images[0, :, 0, 0] = 0  # black
    images[0, :, 0, 1] = 0.4  # grey
    images[0, :, 0, 2] = 1  # white
    images[0, :, 0, 3] = torch.tensor([1.0, 0, 0])  # red
    return images


@pytest.mark.parametrize(("severity", "amount"), each(0.05, 0.1, 0.15, 0.2, 0.3))
def test_brightness(severity, amount):
    images = with_special_pixels()
    expected = through_hsv(images, lambda h, s, v: (h, s, min(1, v + amount)))
    torch.testing.assert_close(apply("brightness", images, severity), expected, rtol=0, atol=1e-5)
    grey = images[:, :1]
    torch.testing.assert_close(apply("brightness", grey, severity), (grey + amount).clamp(max=1))


@pytest.mark.parametrize(
    ("severity", "factor", "shift"), [(1, 0.3, 0), (2, 0.1, 0), (3, 1.5, 0), (4, 2, 0.1), (5, 2.5, 0.2)]
)
def test_saturate(severity, factor, shift):
    images = with_special_pixels()
    expected = through_hsv(images, lambda h, s, v: (h, min(1, s * factor + shift), v))
    torch.testing.assert_close(apply("saturate", images, severity), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"saturate needs colour images \(3 channels\), found 1"):
        apply("saturate", images[:, :1], severity)


@pytest.mark.parametrize(("severity", "factor"), each(0.75, 0.5, 0.4, 0.3, 0.15))
def test_contrast_shrinks_about_each_channels_mean(severity, factor):
    images = colours(5, 8)
    changed = apply("contrast", images, severity)
    torch.testing.assert_close(changed.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(changed.std((2, 3)), images.std((2, 3)) * factor)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupting_bytes(name):
    images = (colours(6, 8) * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    results = [corrupt(images, name, severity) for severity in SEVERITIES]
    assert torch.equal(images, before)
    for severity, result in zip(SEVERITIES, results, strict=True):
        assert result.dtype == torch.uint8
        assert result.shape == images.shape
        assert not torch.equal(result, images)
        assert torch.equal(result, corrupt(images.contiguous(), name, severity))
        alone = apply(name, images.float() / 255, severity, seed=0)
        assert (result.float() / 255 - alone.clamp(0, 1)).abs().mean() < 0.2
    assert not torch.equal(results[0], results[4])


def test_whole_set_is_corrupted_whatever_its_size():
    images = torch.full((5001, 1, 2, 2), 128, dtype=torch.uint8)  # more than one chunk, the last of one image
    result = corrupt(images, "gaussian_noise", 5)
    assert (result.float() / 255).std().item() == pytest.approx(0.1, rel=0.03)
    assert not torch.equal(result[:2500], result[2500:5000])
    assert torch.equal(result[:2500], corrupt(images[:2500], "gaussian_noise", 5))


def test_bytes_are_rounded_and_clipped():
    images = torch.tensor([[[[0, 255], [250, 100]]]], dtype=torch.uint8)
    assert corrupt(images, "brightness", 1).flatten().tolist() == [13, 255, 255, 113]  # + 12.75


def test_wrong_arguments():
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="unknown corruption 'fog': known are gaussian_noise"):
        corrupt(images, "fog", 1)
    with pytest.raises(ValueError, match="contrast: severity must be 1, 2, 3, 4 or 5, got 0"):
        corrupt(images, "contrast", 0)
