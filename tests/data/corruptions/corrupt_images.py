"""Images for tests of corruptions, and a function that corrupts them with known random numbers."""

import numpy as np
import torch

from data.corruptions import CORRUPTIONS, RandomNumbers

SEVERITIES = range(1, 6)


def colours(n=4, size=6, channels=3):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def photographs(size, channels=3):
    """Return the centre of two photographs, reduced to (2, channels, size, size), in [0, 1]."""
    from sklearn.datasets import load_sample_images

    middle = [torch.from_numpy(image[100:420, 160:480].copy()) for image in load_sample_images().images]
    images = torch.stack(middle).movedim(3, 1).float() / 255
    return torch.nn.functional.adaptive_avg_pool2d(images, size)[:, :channels].contiguous()


def draws(n):
    """Return the random numbers that `apply` uses."""
    return RandomNumbers("test", range(n))


def apply(name, images, severity):
    return CORRUPTIONS[name](images, severity, draws(len(images)))


def each(*constants):
    """Pair each severity with its constant."""
    return list(zip(SEVERITIES, constants, strict=True))


def published(tables):
    """List (size, severity, constant) of a table {size: five constants}."""
    return [(size, severity, constant) for size, row in tables.items() for severity, constant in each(*row)]


def close(found, expected, atol=1e-5):
    found = torch.as_tensor(found)
    expected = torch.from_numpy(np.array(expected, dtype=np.float64))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)
