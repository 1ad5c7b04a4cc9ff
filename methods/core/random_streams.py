"""Streams of randomness: each a pure function of (seed, purpose, epoch), so that any epoch can be redone."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

CPU = torch.device("cpu")


def stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Make the generator of one purpose in one epoch.

    Args:
        seed: the seed of the cell.
        purpose: what the numbers are for, e.g. "order" or "alpha"; other purposes give independent numbers.
        epoch: epochs are counted from 0.

    Returns:
        A fresh generator on the CPU, so that the numbers are the same whatever device trains.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seed_torch(generator: torch.Generator, device: torch.device = CPU) -> None:
    """Let torch's global randomness on the CPU and on a device follow `generator` from here on.

    `torch.manual_seed` would do, but before CUDA is used it notes a stack trace at every call.
    """
    seed = generator.initial_seed()
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded(generator: torch.Generator, device: torch.device = CPU) -> Iterator[None]:
    """Let torch's global randomness (weight initialisation, dropout) follow `generator` for a while.

    Args:
        generator: whose seed is taken.
        device: where, besides the CPU; its state is put back afterwards.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_torch(generator, device)
        yield


class MakeNet:
    """Draws the networks of one run: each call gives a new network with fresh weights.

    The i-th draw of a seed has the same weights for every method, so that methods are compared in pairs.

    Args:
        build: makes a network; takes the network's options (`dropout=0.2`) as keywords and draws its weights
            from torch's global generator.
        seed: the seed of the cell, of which every stream of its randomness is made.
    """

    def __init__(self, build: Callable[..., nn.Module], seed: int) -> None:
        self.build = build
        self.seed = seed
        self.options: dict[str, Any] = {}
        self.draws = 0

    def __call__(self, **options: Any) -> nn.Module:
        """Draw the next network, on the CPU or wherever `build` puts it."""
        with seeded(stream(self.seed, f"weights {self.draws}")):
            net = self.build(**(self.options | options))
        self.draws += 1
        return net

    def having(self, *, seed: int | None = None, **options: Any) -> "MakeNet":
        """Give a fresh source of networks with another seed or with options of the network set."""
        other = MakeNet(self.build, self.seed if seed is None else seed)
        other.options = self.options | options
        return other
