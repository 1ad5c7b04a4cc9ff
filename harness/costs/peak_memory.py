"""The most memory that a run takes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PeakMemory:
    """The most memory that a run adds on its CUDA device.

    On the CPU it is not measured: what a process holds depends on what it ran before, and on what its allocator
    keeps for the next step.
    """

    def __init__(self, device: torch.device) -> None:
        """Forget earlier peaks, and note the level to start from."""
        self.device, self.peak = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)

    def bytes(self) -> int:
        """Read the peak above the start, in bytes; 0 on the CPU."""
        if self.device.type != "cuda":
            return 0
        return max(self.peak, torch.cuda.max_memory_allocated(self.device) - self.start)

    @contextmanager
    def excluding(self) -> Iterator[None]:
        """Leave out what is added inside, and what of it stays."""
        if self.device.type != "cuda":
            yield
            return
        self.peak = self.bytes()
        before = torch.cuda.memory_allocated(self.device)
        yield
        self.start += torch.cuda.memory_allocated(self.device) - before
        torch.cuda.reset_peak_memory_stats(self.device)
