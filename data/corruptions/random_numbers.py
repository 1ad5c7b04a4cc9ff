"""Random numbers for corruptions. Those of an image do not depend on the other images."""

import zlib
from collections.abc import Callable

import torch
from torch import Generator, Tensor


class RandomNumbers:
    """Random numbers for consecutive images of a test set.

    The numbers of an image depend on the stream's name, the image's index in the test set and the number of earlier
    draws. They are drawn on the CPU, so that they are the same for every device, and then copied to the device.

    Args:
        stream: Name of the stream. Streams of other names are independent.
        images: Indices of the N images in the test set.
        device: Device of the returned numbers.
    """

    def __init__(self, stream: str, images: range, device: torch.device | str = "cpu") -> None:
        self._stream = stream
        self._images = images
        self._device = device
        self._generator = Generator()
        self._count = 0

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, (N, *shape) float32."""
        return self._fill(torch.empty(len(self._images), *shape), lambda own, g: own.normal_(generator=g))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw uniform numbers between `low` and `high`, (N, *shape) float32."""
        return self._fill(torch.empty(len(self._images), *shape), lambda own, g: own.uniform_(low, high, generator=g))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw integers from `low` to `high` - 1, (N, *shape) int64."""
        numbers = torch.empty(len(self._images), *shape, dtype=torch.int64)
        return self._fill(numbers, lambda own, g: own.random_(low, high, generator=g))

    def poisson(self, rates: Tensor) -> Tensor:
        """Draw Poisson counts with the means `rates`, (N, ...) float32."""
        return self._fill(rates.to("cpu", copy=True), lambda own, g: own.copy_(torch.poisson(own, generator=g)))

    def _fill(self, numbers: Tensor, fill: Callable[[Tensor, Generator], Tensor]) -> Tensor:
        """Fill the numbers of each image with a generator seeded for it, and copy all of them to the device."""
        self._count += 1
        for index, own in zip(self._images, numbers.unbind(), strict=True):
            seed = zlib.crc32(f"{self._stream} {index} {self._count}".encode())
            fill(own, self._generator.manual_seed(seed))
        return numbers.to(self._device)
