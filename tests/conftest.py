"""Small networks, small data and settings of methods that many tests share."""

import gc
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

import models
from methods import MakeNet, Method, Recipe
from methods.core.declarations import Batch


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a CUDA device on machines without one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def pytest_collection_finish() -> None:
    """Let garbage collections pass by what all imports made, which stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what is cached apart from the user's cache, in other processes too."""
    os.environ["ECON_CACHE"] = str(tmp_path_factory.mktemp("cache"))


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute with one thread, whatever engines were set to before: with such small networks more would only wait."""
    torch.set_num_threads(1)


settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")


class TinyNet(nn.Module):
    """A convolution, BatchNorm, dropout and a classifier of 3 classes for (B, 1, 6, 6) images."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return self.head(self.dropout(x).flatten(1))


class TinyLSTM(nn.Module):
    """An LSTM that reads (B, 1, 6, 6) images row by row, dropout and a classifier of 3 classes; no BatchNorm."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.flatten(1, 2))  # (B, 6, 8)
        return self.head(self.dropout(states[:, -1]))


NETS: dict[str, Callable[..., nn.Module]] = {
    "tiny": TinyNet,
    "wrn-10-1": partial(models.build, "wrn-10-1", in_channels=1, classes=3, image_size=6),
    "lstm": TinyLSTM,
}


LATE_PHASE = {"K": 3, "start": 0.3}
SETTINGS: dict[str, dict[str, object]] = {
    "mc_dropout": {"K": 3},
    "swa": {"start": 0.5},
    "swag": {"start": 0.5, "rank": 2, "N": 3},
    "fge": {"start": 0.5},
    "snapshot": {"M": 2},
    "batch_ensemble": {"K": 3},
    "late_phase_bn": LATE_PHASE,
    "late_phase_rank1": LATE_PHASE,
    "late_phase_hypernet": LATE_PHASE,
    "late_phase_last_layer": LATE_PHASE,
    "late_phase_full": LATE_PHASE,
    "late_independent": LATE_PHASE,
    "gradient_accumulation": LATE_PHASE,
    "hypernet_ensemble": LATE_PHASE,
    "branched": LATE_PHASE,
    "deep_ensemble": {"K": 3},
}
"""Hyperparameters with which a method fits into 4 to 6 epochs; methods that are not listed use their defaults."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow database once for all processes that run tests: copying it is far quicker."""
    from harness.tracking.mlflow_store import create_database

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which they share
    create_database(folder / "empty.db")  # which lets one process make it, and others wait
    return folder / "empty.db"


@pytest.fixture
def make_net() -> MakeNet:
    return MakeNet(TinyNet, seed=0)


def separable(n: int, seed: int = 0) -> Batch:
    """Return n noisy images of three classes, which differ in the bright row, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.5 * torch.randn(n, 1, 6, 6, generator=generator)
    x[torch.arange(n), 0, 2 * y] += 2.0
    return x, y


@pytest.fixture
def batches() -> list[Batch]:
    """Return seven minibatches, of which the last one is smaller."""
    x, y = separable(7 * 16 - 5)
    return list(zip(x.split(16), y.split(16), strict=True))


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(epochs=6, lr=0.05, weight_decay=1e-3)


def build(
    make: Callable[..., Method], recipe: Recipe, seed: int = 0, net: str = "tiny", **hyperparameters: object
) -> Method:
    """Build a method on one of the small networks."""
    return partial(make, **hyperparameters)(MakeNet(NETS[net], seed), recipe)
