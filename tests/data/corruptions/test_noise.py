import pytest
import torch

from tests.data.corruptions.corrupt_images import apply, published


def grey(level, size):
    return torch.full((max(2, 60_000 // size**2 // 3), 3, size, size), level)


GAUSSIAN = {32: (0.04, 0.06, 0.08, 0.09, 0.10), 64: (0.04, 0.08, 0.12, 0.15, 0.18), 224: (0.08, 0.12, 0.18, 0.26, 0.38)}
SHOT = {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)}
IMPULSE = {32: (0.01, 0.02, 0.03, 0.05, 0.07), 64: (0.01, 0.02, 0.05, 0.08, 0.14), 224: (0.03, 0.06, 0.09, 0.17, 0.27)}
SPECKLE = {32: (0.06, 0.1, 0.12, 0.16, 0.2), 64: (0.15, 0.2, 0.25, 0.3, 0.35), 224: (0.15, 0.2, 0.35, 0.45, 0.6)}


@pytest.mark.parametrize(("size", "severity", "std"), published(GAUSSIAN))
def test_gaussian_noise(size, severity, std):
    noise = apply("gaussian_noise", grey(0.5, size), severity) - 0.5
    assert noise.std().item() == pytest.approx(std, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02 * std)


@pytest.mark.parametrize(("size", "severity", "photons"), published(SHOT))
def test_shot_noise(size, severity, photons):
    for level in (0.2, 0.8):
        noisy = apply("shot_noise", grey(level, size), severity)
        assert noisy.mean().item() == pytest.approx(level, rel=0.02)
        assert noisy.var().item() == pytest.approx(level / photons, rel=0.05)
        counts = noisy * photons
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("size", "severity", "amount"), published(IMPULSE))
def test_impulse_noise(size, severity, amount):
    noisy = apply("impulse_noise", grey(0.5, size), severity)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}
    assert (noisy == 0).float().mean().item() == pytest.approx(amount / 2, rel=0.15)
    assert (noisy == 1).float().mean().item() == pytest.approx(amount / 2, rel=0.15)


@pytest.mark.parametrize(("size", "severity", "std"), published(SPECKLE))
def test_speckle_noise(size, severity, std):
    for level in (0.3, 0.9):
        noise = apply("speckle_noise", grey(level, size), severity) - level
        assert noise.std().item() == pytest.approx(level * std, rel=0.02)


def test_noise_of_channels_is_independent():
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"):
        noisy = apply(name, grey(0.5, 32), 5)
        assert not torch.equal(noisy[:, 0], noisy[:, 1])
