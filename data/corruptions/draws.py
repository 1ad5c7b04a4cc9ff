"""The random numbers of corruptions: each image has its own, whichever images are corrupted with it."""

import zlib
from collections.abc import Callable

import torch
from torch import Generator, Tensor


class Draws:
    """Random numbers for some consecutive images of a set.

    Those of an image are a function of the stream's name, the image's index in the set and how many draws came before.
    They are drawn on the CPU, so that every device sees the same ones, and then moved to the device.

    Args:
        stream: Name of the stream; other names give independent numbers.
        images: Indices of the N images in their set.
        device: Where the numbers are wanted.
    """

    def __init__(self, stream: str, images: range, device: torch.device | str = "cpu") -> None:
        self._stream = stream
        self._images = images
        self._device = device
        self._generator = Generator()
        self._count = 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (N, *shape) float32."""
        return self._fill(torch.empty(len(self._images), *shape), lambda own, g: own.normal_(generator=g))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers between `low` and `high`, (N, *shape) float32."""
        return self._fill(torch.empty(len(self._images), *shape), lambda own, g: own.uniform_(low, high, generator=g))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from `low` to `high` - 1, (N, *shape) int64."""
        numbers = torch.empty(len(self._images), *shape, dtype=torch.int64)
        return self._fill(numbers, lambda own, g: own.random_(low, high, generator=g))

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts whose means are `rates`, (N, ...) float32."""
        return self._fill(rates.to("cpu", copy=True), lambda own, g: own.copy_(torch.poisson(own, generator=g)))

    def _fill(self, numbers: Tensor, fill: Callable[[Tensor, Generator], Tensor]) -> Tensor:
        """Fill each image's own numbers from a generator seeded for it, and move them all."""
        self._count += 1
        for index, own in zip(self._images, numbers.unbind(), strict=True):
            seed = zlib.crc32(f"{self._stream} {index} {self._count}".encode())
            fill(own, self._generator.manual_seed(seed))
        return numbers.to(self._device)
