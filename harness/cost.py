"""What a run costs, counted the same way for every method."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods import Method


@dataclass
class Cost:
    """The cost of training: all of it, whatever the method spent it on; evaluation is not counted.

    Attributes:
        forward_examples: examples passed forward through the network; K members count K times.
        backward_examples: examples passed backward.
        optimizer_steps: steps of the optimizer.
        train_seconds: of updates, `end_epoch` and `prepare`.
        peak_memory_bytes: the most memory that training added on its CUDA device; 0 where it was not measured.
    """

    forward_examples: int = 0
    backward_examples: int = 0
    optimizer_steps: int = 0
    train_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Add two costs, of runs one after the other: the larger peak of memory stays."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)}
        return Cost(**{**sums, "peak_memory_bytes": max(self.peak_memory_bytes, other.peak_memory_bytes)})

    def as_dict(self) -> dict[str, Any]:
        """Give the cost as JSON values."""
        return asdict(self)


class Counter:
    """Counts a run's cost by hooks on its networks and its optimizer."""

    def __init__(self) -> None:
        """Start from nothing, not counting."""
        self.cost = Cost()
        self.counting = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Counter":
        """Stay one counter when a network is copied."""
        return self

    def __call__(self, net: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Count a forward pass, and a backward one if gradients will flow."""
        if self.counting:
            examples = len(arguments[0])
            self.cost.forward_examples += examples
            if torch.is_grad_enabled():
                self.cost.backward_examples += examples

    def step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Count a step."""
        self.cost.optimizer_steps += 1

    @contextmanager
    def training(self, device: torch.device) -> Iterator[None]:
        """Count what happens inside, and its seconds."""
        start = time.perf_counter()
        self.counting = True
        try:
            yield
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            self.counting = False
            self.cost.train_seconds += time.perf_counter() - start


def parameters_trained(method: Method) -> int:
    """Count the parameters that the method's own training changes."""
    return sum(p.numel() for group in method.param_groups() for _, p in group["params"])


def parameters_kept(method: Method) -> int:
    """Count the parameters that prediction needs: those of all members, shared ones once."""
    names = {name for name, _ in method.net.named_parameters()}
    tensors = [t for weights in list(method.members()) for name, t in weights.items() if name in names]
    return sum(t.numel() for t in {id(t): t for t in tensors}.values())


class PeakMemory:
    """The most memory that a run adds on its CUDA device.

    On the CPU it is not measured: what a process holds depends on what it ran before, and on what its allocator
    keeps for the next step.
    """

    def __init__(self, device: torch.device) -> None:
        """Forget earlier peaks, and note the level to start from."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)

    def bytes(self) -> int:
        """Read the peak above the start, in bytes; 0 on the CPU."""
        return torch.cuda.max_memory_allocated(self.device) - self.start if self.device.type == "cuda" else 0
