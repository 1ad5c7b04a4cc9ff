"""The peak memory of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PeakMemory:
    """Measures the peak of the memory that a run allocates on its CUDA device.

    It is not measured on the CPU, where the memory of a process depends on what ran before, and on what the allocator
    keeps for later.
    """

    def __init__(self, device: torch.device) -> None:
        """Reset the peak, and record the memory that is allocated already."""
        self.device, self.peak = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)

    def bytes(self) -> int:
        """Return the peak above the initial level, in bytes; 0 on the CPU."""
        if self.device.type != "cuda":
            return 0
        return max(self.peak, torch.cuda.max_memory_allocated(self.device) - self.start)

    @contextmanager
    def excluding(self) -> Iterator[None]:
        """Exclude the memory that is allocated inside a `with` block, also if it stays allocated."""
        if self.device.type != "cuda":
            yield
            return
        self.peak = self.bytes()
        before = torch.cuda.memory_allocated(self.device)
        yield
        self.start += torch.cuda.memory_allocated(self.device) - before
        torch.cuda.reset_peak_memory_stats(self.device)
