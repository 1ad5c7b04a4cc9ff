"""What a run costs, counted the same way for every method."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods import Method

STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
"""Of BatchNorm: part of a network's state, but no parameters."""


@dataclass
class Cost:
    """The cost of training: all of it, whatever the method spent it on; evaluation is not counted.

    Attributes:
        forward_examples: examples passed forward through the network; K members count K times.
        backward_examples: examples passed backward.
        optimizer_steps: steps of the optimizer.
        train_seconds: of updates, `end_epoch`, `watch` and `prepare`.
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

    def __sub__(self, other: "Cost") -> "Cost":
        """Leave out what was spent before; the peak of memory stays."""
        rests = {f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)}
        return Cost(**{**rests, "peak_memory_bytes": self.peak_memory_bytes})

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
            examples = arguments[0].shape[0]
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


@torch.no_grad()
def parameters_kept(method: Method, x: Tensor) -> int:
    """Count the parameters that prediction needs.

    A method can be kept as it is, or as its members, whichever is less: the midpoint of a line is one network, though
    it is computed from two; members made from shared weights and a few vectors each are kept as just these.

    Args:
        method: prepared for prediction, in evaluation mode.
        x: (B, …), a few examples.
    """
    return min(parameters_read(method, x), parameters_of_members(method))


def parameters_read(method: Method, x: Tensor) -> int:
    """Count the numbers in the method's own parameters and buffers that `predict` reads; BatchNorm's statistics not."""
    with Reads() as reads:
        method.predict(x)
    named = [*method.named_parameters(), *method.named_buffers()]
    kept = [t for name, t in named if t.is_floating_point() and re.split("[./]", name)[-1] not in STATISTICS]
    return sum(t.numel() for t in kept if address(t) in reads.addresses)


def parameters_of_members(method: Method) -> int:
    """Count the parameters of all members: the method's own tensors once, those computed for a member each time."""
    own = {address(t) for t in [*method.parameters(), *method.buffers()]}  # alive, so that no other tensor is there
    buffers = {name for name, _ in method.net.named_buffers()}
    shared: dict[tuple[int, int, int], int] = {}
    computed = 0
    for weights in method.members():
        for t in (t for name, t in weights.items() if name not in buffers):
            if address(t) in own:
                shared[address(t), int(t.storage_offset()), t.numel()] = t.numel()
            else:
                computed += t.numel()
    return computed + sum(shared.values())


def address(t: Tensor) -> int:
    """Say where in memory a tensor's numbers lie; a view lies where its base does."""
    return t.untyped_storage().data_ptr()


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where the tensors lie that operations read; making a view reads nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.addresses: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operation's arguments, and do it."""
        if not func.is_view:
            self.addresses |= {address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        return func(*args, **(kwargs or {}))


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
    def leaving_out(self) -> Iterator[None]:
        """Leave out what is added inside, and what of it stays."""
        if self.device.type != "cuda":
            yield
            return
        self.peak = self.bytes()
        before = torch.cuda.memory_allocated(self.device)
        yield
        self.start += torch.cuda.memory_allocated(self.device) - before
        torch.cuda.reset_peak_memory_stats(self.device)
