"""Small networks and data that many tests share."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from methods import MakeNet, Method, Recipe
from methods.base import Batch


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")


class TinyNet(nn.Module):
    """A convolution, BatchNorm, dropout and a classifier of 3 classes for (B, 1, 6, 6) pictures."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.head(self.dropout(x).flatten(1))


@pytest.fixture
def make_net() -> MakeNet:
    return MakeNet(TinyNet, seed=0)


def separable(n: int, seed: int = 0) -> Batch:
    """Pictures of three classes that differ in the bright row, with noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.5 * torch.randn(n, 1, 6, 6, generator=generator)
    x[torch.arange(n), 0, 2 * y] += 2.0
    return x, y


@pytest.fixture
def batches() -> list[Batch]:
    """Seven minibatches, the last one smaller."""
    x, y = separable(7 * 16 - 5)
    return list(zip(x.split(16), y.split(16), strict=True))


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(epochs=6, lr=0.05, weight_decay=1e-3)


Maker = Callable[..., Method]


def build(make: Callable[..., Method], recipe: Recipe, seed: int = 0, **hyperparameters: object) -> Method:
    """Build a method on the small network."""
    return partial(make, **hyperparameters)(MakeNet(TinyNet, seed), recipe)
