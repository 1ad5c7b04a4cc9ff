import numpy as np
import pytest
import torch

from data import corruptions
from data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, STANDARD_CORRUPTIONS, RandomNumbers, corrupt
from data.corruptions.severities import length_scale, nearest_published_size, severity_constant
from tests.data.corruptions.corrupt_images import SEVERITIES, colours, photographs

RANDOM = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"),
    *("elastic_transform", "speckle_noise", "spatter"),
}


def test_names():
    assert (
        *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
        *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    ) == STANDARD_CORRUPTIONS
    assert EXTRA_CORRUPTIONS == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert tuple(CORRUPTIONS) == STANDARD_CORRUPTIONS + EXTRA_CORRUPTIONS


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(4, 32), (32, 32), (45, 32), (46, 64), (64, 64), (119, 64), (120, 224), (224, 224), (512, 224)],
)
def test_constants_are_those_of_the_nearest_size(size, nearest):
    assert nearest_published_size(size) == nearest
    assert severity_constant({32: "abcde", 64: "fghij", 224: "klmno"}, size, 2) == {32: "b", 64: "g", 224: "l"}[nearest]


def test_lengths_are_in_proportion_but_not_below_32_pixels():
    expected = {4: 1, 28: 1, 32: 1, 40: 1.25, 48: 0.75, 64: 1, 96: 1.5, 224: 1, 448: 2}
    assert {size: length_scale(size) for size in expected} == expected


def as_bytes(images):
    return (images * 255).round().to(torch.uint8)


@pytest.mark.parametrize("size", [4, 8, 28, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_corruption_at_every_size(size, channels):
    images = as_bytes(photographs(size, channels))
    for name in CORRUPTIONS:
        if name == "saturate" and channels == 1:
            continue
        for severity in SEVERITIES:
            result = corrupt(images, name, severity)
            assert result.dtype == torch.uint8
            assert result.shape == images.shape
            if size >= 28 and name != "spatter":  # two small images may stay dry
                assert not torch.equal(result, images), (name, severity)
                # Nothing is destroyed: even at its worst an image is like itself.
                pair = np.corrcoef(result.flatten().numpy(), images.flatten().numpy())
                assert pair[0, 1] > 0.3, (name, severity)


# The others change where, not how much: their severities are not ordered by the distance from the clean image.
ORDERED = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "zoom_blur", "brightness", "contrast"),
    *("pixelate", "jpeg_compression", "speckle_noise", "gaussian_blur"),
)


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("size", [32, 64, 224])
def test_corruptions_grow_with_severity(name, size):
    images = as_bytes(photographs(size))
    change = [(corrupt(images, name, severity).float() - images).abs().mean().item() for severity in SEVERITIES]
    assert sorted(change) == change


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_image_does_not_depend_on_other_images(name, monkeypatch):
    images = as_bytes(photographs(16)).repeat(7, 1, 1, 1)  # every second one is the same
    for severity in (1, 5):
        whole = corrupt(images, name, severity)
        for start, stop in ((0, 1), (0, 5), (3, 4), (5, 14)):
            assert torch.equal(corrupt(images[start:stop], name, severity, start=start), whole[start:stop])
        with monkeypatch.context() as patch:
            patch.setattr(corruptions, "_VALUES_AT_ONCE_ON_CPU", 3 * 3 * 16 * 16)  # three images at once
            assert torch.equal(corrupt(images, name, severity), whole)
    assert torch.equal(whole[0], whole[2]) == (name not in RANDOM)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupting_bytes(name):
    images = as_bytes(colours(6, 8)).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    result = corrupt(images, name, 5)
    assert torch.equal(images, before)
    assert torch.equal(result, corrupt(images.contiguous(), name, 5))
    alone = CORRUPTIONS[name](images.float() / 255, 5, RandomNumbers(f"{name} 5", range(6)))
    assert torch.equal(result, as_bytes(alone.clamp(0, 1)))
    assert corrupt(images[:0], name, 5).shape == (0, 3, 8, 8)


def test_bytes_are_rounded_and_clipped():
    images = torch.tensor([[[[0, 255], [250, 100]]]], dtype=torch.uint8)
    assert corrupt(images, "brightness", 1).flatten().tolist() == [13, 255, 255, 113]  # + 12.75


def test_other_severities_and_names_have_other_random_numbers():
    images = torch.full((2, 1, 32, 32), 128, dtype=torch.uint8)
    noise = [corrupt(images, name, s).float() - 128 for name in ("gaussian_noise", "speckle_noise") for s in (1, 2)]
    for i, one in enumerate(noise):
        for other in noise[:i]:
            assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.1


def test_wrong_arguments():
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="unknown corruption 'rain': known are gaussian_noise, .*saturate"):
        corrupt(images, "rain", 1)
    for severity in (0, 6, 1.5):
        with pytest.raises(ValueError, match=f"contrast: severity must be 1, 2, 3, 4 or 5, got {severity}"):
            corrupt(images, "contrast", severity)
    for wrong in (images.float(), images[0], images.expand(1, 2, 8, 8), images[:, :, :5]):
        with pytest.raises(ValueError, match=r"fog: images must be uint8 \(N, 1 or 3, H, H\), found torch.*\("):
            corrupt(wrong, "fog", 1)
    with pytest.raises(ValueError, match=r"saturate needs colour images \(3 channels\), found 1"):
        corrupt(images, "saturate", 1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_gpu_gives_the_same_images(name):
    for size in (8, 32, 224):
        images = as_bytes(photographs(size))
        for severity in SEVERITIES:
            found = corrupt(images.cuda(), name, severity)
            assert found.device.type == "cuda"
            difference = (found.cpu().int() - corrupt(images, name, severity).int()).abs()
            assert (difference > 0).float().mean() < 0.001
            assert (difference > 1).float().mean() < 0.0002


class TestDraws:
    def test_numbers_of_an_image_do_not_depend_on_other_images(self):
        whole, part = RandomNumbers("a", range(10)), RandomNumbers("a", range(4, 7))
        for draw in (
            lambda d: d.normal(3, 5),
            lambda d: d.uniform(2),
            lambda d: d.integers(-2, 2, 4),
            lambda d: d.uniform(),
        ):
            assert torch.equal(draw(whole)[4:7], draw(part))
        rates = torch.linspace(0.1, 90, 10)[:, None].expand(10, 20).contiguous()
        assert torch.equal(whole.poisson(rates)[4:7], part.poisson(rates[4:7]))

    def test_streams_images_and_draws_differ(self):
        one, other = RandomNumbers("a", range(2)), RandomNumbers("b", range(2))
        numbers = torch.cat([one.normal(1000), one.normal(1000), other.normal(1000)])
        correlations = np.corrcoef(numbers.numpy()) - np.eye(6)
        assert np.abs(correlations).max() < 0.15

    def test_distributions(self):
        d = RandomNumbers("a", range(200))
        normal, uniform = d.normal(500), d.uniform(500, low=-3, high=5)
        assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 1), abs=0.01)
        assert (uniform.mean().item(), uniform.std().item()) == pytest.approx((1, 8 / 12**0.5), abs=0.03)
        assert normal[:, 0].std().item() == pytest.approx(1, abs=0.2)  # the first number of each image, too
        counts = torch.bincount(d.integers(-2, 2, 500).flatten() + 2)
        assert (counts / 100_000).tolist() == pytest.approx([0.25] * 4, abs=0.01)
        rates = torch.full((200, 500), 7.0)
        photons = d.poisson(rates)
        assert (photons.mean().item(), photons.var().item()) == pytest.approx((7, 7), abs=0.1)
        assert (rates == 7).all()
