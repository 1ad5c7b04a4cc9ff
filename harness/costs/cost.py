"""The training cost of a run, counted in the same way for every method."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

BATCH_NORM_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
"""Buffers of BatchNorm. They belong to a network's state and are not counted as parameters."""


@dataclass
class Cost:
    """The total cost of training a method. Evaluation is not counted.

    Attributes:
        forward_examples: examples passed forward through the network; K members count K times.
        backward_examples: examples passed backward.
        optimizer_steps: steps of the optimizer.
        train_seconds: seconds spent in updates, `end_epoch`, `watch` and `prepare`.
        peak_memory_bytes: peak of the memory that training allocated on its CUDA device; 0 if it was not measured.
    """

    forward_examples: int = 0
    backward_examples: int = 0
    optimizer_steps: int = 0
    train_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Add the costs of two consecutive runs. The peak memory is the larger of the two."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)}
        return Cost(**{**sums, "peak_memory_bytes": max(self.peak_memory_bytes, other.peak_memory_bytes)})

    def __sub__(self, other: "Cost") -> "Cost":
        """Subtract a cost that was spent before. The peak memory stays."""
        rests = {f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)}
        return Cost(**{**rests, "peak_memory_bytes": self.peak_memory_bytes})

    def as_dict(self) -> dict[str, Any]:
        """Return the cost as JSON values."""
        return asdict(self)


class CostCounter:
    """Counts a run's cost with hooks on its networks and its optimizer."""

    def __init__(self) -> None:
        """Start at zero, with counting switched off."""
        self.cost = Cost()
        self.counting = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "CostCounter":
        """Return the same counter, so that copies of a network share it."""
        return self

    def __call__(self, net: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Count a forward pass, and a backward pass if gradients are enabled."""
        if self.counting:
            examples = arguments[0].shape[0]
            self.cost.forward_examples += examples
            if torch.is_grad_enabled():
                self.cost.backward_examples += examples

    def step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Count an optimizer step."""
        self.cost.optimizer_steps += 1

    @contextmanager
    def training(self, device: torch.device) -> Iterator[None]:
        """Count passes and seconds inside a `with` block."""
        start = time.perf_counter()
        self.counting = True
        try:
            yield
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            self.counting = False
            self.cost.train_seconds += time.perf_counter() - start
