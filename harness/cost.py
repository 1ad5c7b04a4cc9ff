"""What a run costs, counted the same way for every method."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
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
    """

    forward_examples: int = 0
    backward_examples: int = 0
    optimizer_steps: int = 0
    train_seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Add two costs."""
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

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
    tensors = [t for weights in method.members() for name, t in weights.items() if name in names]
    return sum(t.numel() for t in {id(t): t for t in tensors}.values())


class PeakMemory:
    """The most memory held since its construction: of the CUDA device, else of this process.

    The process's peak is read from Linux; elsewhere it is unknown.
    """

    def __init__(self, device: torch.device) -> None:
        """Forget earlier peaks."""
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif (reset := Path("/proc/self/clear_refs")).exists():
            reset.write_text("5")

    def bytes(self) -> int | None:
        """Read the peak, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        if not status.exists():
            return None
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
