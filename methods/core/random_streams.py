"""Random streams: generators that depend only on (seed, purpose, epoch), so that any epoch can be repeated."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from methods.core.declarations import DataSizes
from methods.core.layers import check_own_buffers

CPU = torch.device("cpu")
DRAWN = "_drawn_by_make_net"
"""The attribute that marks networks of `MakeNet`, and their copies."""
CONSTRUCTION = "global generators in construction"
"""The purpose of what a method's `__init__` draws from global generators."""


def stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return the random generator of one purpose in one epoch.

    Args:
        seed: the seed of the cell.
        purpose: what the numbers are for, such as "order" or "alpha". Different purposes give independent numbers.
        epoch: counted from 0.

    Returns:
        A new generator on the CPU, so that the numbers do not depend on the device that trains.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_torch(generator: torch.Generator, device: torch.device = CPU) -> None:
    """Seed torch's global generators, on the CPU and on a device, with the seed of `generator`.

    `torch.manual_seed` does the same, but records a stack trace at every call before CUDA is first used.
    """
    seed = generator.initial_seed()
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded(generator: torch.Generator, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's global generators (weight initialisation, dropout) inside a `with` block, and restore them after.

    Args:
        generator: its seed is used.
        device: a device whose generator is seeded and restored too, besides that of the CPU.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_torch(generator, device)
        yield


def seed_all(generator: torch.Generator, device: torch.device = CPU) -> None:
    """Seed the global generators of torch, on the CPU and on a device, of NumPy and of Python."""
    seed_torch(generator, device)
    seed = generator.initial_seed()
    # Other bits than torch uses of it: the two generators are of one kind, and would draw the same numbers.
    np.random.seed(seed >> 31)  # noqa: NPY002 - the global generator, which a method of the user's may draw from
    random.seed(seed)


@contextmanager
def all_seeded(generator: torch.Generator, device: torch.device = CPU) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside a `with` block, and restore them after.

    Args:
        generator: its seed is used.
        device: a device whose generator is seeded and restored too, besides that of the CPU.
    """
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_all(generator, device)
        try:
            yield
        finally:
            np.random.set_state(states[0])  # noqa: NPY002
            random.setstate(states[1])


class MakeNet:
    """Build the networks of one run: each call returns a new network with newly drawn weights.

    The i-th network of a seed has the same weights for every method, so that methods are compared in pairs.

    Args:
        build: builds a network. It takes the network's options (`dropout=0.2`) as keywords, and draws the weights
            from torch's global generator.
        seed: the seed of the cell; all random streams of the cell are derived from it.
        sizes: the sizes of the data.
    """

    def __init__(self, build: Callable[..., nn.Module], seed: int, sizes: DataSizes | None = None) -> None:
        self.build = build
        self.seed = seed
        self.sizes = sizes
        self.options: dict[str, Any] = {}
        self.numbers = count()

    def __call__(self, **options: Any) -> nn.Module:
        """Build the next network, on the device that `build` uses.

        Args:
            options: options of the network, in place of those set before. The harness's networks take `dropout`,
                `in_channels`, `classes`, and, where the architecture can, `width` and `groups` (see `models.build`).
        """
        with seeded(stream(self.seed, f"weights {next(self.numbers)}")):
            net = self.build(**(self.options | options))
        check_own_buffers(net)
        setattr(net, DRAWN, True)
        return net

    @property
    def data(self) -> DataSizes:
        """The sizes of the data of the run: channels, classes, number of training examples.

        Raises:
            ValueError: if this `MakeNet` was made without them.
        """
        if self.sizes is None:
            raise ValueError("the sizes of the data are not known: give them to MakeNet as `sizes`")
        return self.sizes

    def replace(self, *, seed: int | None = None, **options: Any) -> "MakeNet":
        """Return a `MakeNet` with another seed, which starts with network 0, or with other options of the network.

        One with this seed draws the networks that this one would draw next: no two of them have the same weights.
        """
        other = MakeNet(self.build, self.seed if seed is None else seed, self.sizes)
        other.options = self.options | options
        if seed is None:
            other.numbers = self.numbers
        return other
