"""Checkpoints of runs. State is saved by parameter name, so that an equally built method can load it."""

import io
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.costs.cost import Cost
from harness.store.damaged_files import NUMBER
from harness.store.run_folder import write_atomically
from methods import Method

FORMAT = 2
LARGEST_SHARE = 0.05
"""The largest share of the time that a run spends saving checkpoints."""


class CheckpointError(Exception):
    """A checkpoint cannot be read."""


@dataclass
class Checkpoint:
    """The state of a run at the end of an epoch, or the finished state.

    Attributes:
        key: key of the run.
        epoch: number of finished epochs.
        prepared: whether the method is prepared for prediction, which makes this the finished state.
        method: `state_dict` of the method.
        optimizer: optimizer state by parameter name; empty in a finished state.
        cost: training cost so far.
        history: lines of metrics.jsonl so far, which keeps the file consistent with the state.
        trunk: whether the method's state holds only what all forks of a trunk share.
        inherited: the part of `cost` that the trunk has spent.
    """

    key: str
    epoch: int
    prepared: bool
    method: dict[str, Any]
    optimizer: dict[str, dict[str, Any]]
    cost: Cost
    history: list[dict[str, Any]] = field(default_factory=list)
    trunk: bool = False
    inherited: Cost = field(default_factory=Cost)

    def save(self, path: Path) -> None:
        """Write the checkpoint and replace the previous one."""
        costs = {"cost": self.cost.as_dict(), "inherited": self.inherited.as_dict()}
        content = {**vars(self), **costs, "format": FORMAT}
        buffer = io.BytesIO()  # writing to the file directly would hide a full disk behind an error of torch's own
        torch.save(content, buffer)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))


class CheckpointTimer:
    """Decides when the next checkpoint of a run is due.

    Checkpoints are some seconds apart, and further where saving one takes long: all of them together take at most
    `LARGEST_SHARE` of the time. The first one is an exception, because nobody knows yet how long it takes.
    """

    def __init__(self, seconds: float) -> None:
        """Begin to measure time.

        Args:
            seconds: the least seconds between two checkpoints; 0 for one at every opportunity, whatever that costs.
        """
        self.seconds = seconds
        self.began = self.saved = time.monotonic()
        self.last = self.total = 0.0  # seconds of saving

    def is_due(self) -> bool:
        """Return whether a checkpoint is due now."""
        now = time.monotonic()
        affordable = self.total + self.last <= LARGEST_SHARE * (now - self.began)
        return not self.seconds or (now - self.saved >= self.seconds and affordable)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long a checkpoint takes that is saved inside a `with` block."""
        start = time.monotonic()
        yield
        self.saved = time.monotonic()
        self.last = self.saved - start
        self.total += self.last


def load(path: Path, key: str) -> Checkpoint:
    """Load a checkpoint to the CPU. Only tensors and plain values are unpickled.

    Args:
        path: path of the checkpoint.
        key: expected key of the run.

    Raises:
        CheckpointError: if the file cannot be read, or belongs to another run or format.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not detect corrupt bytes
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content.pop("format")
        costs = {name: Cost(**content[name]) for name in ("cost", "inherited") if name in content}
        checkpoint = Checkpoint(**{**content, **costs})
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # corrupt bytes can raise almost any exception
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if found != FORMAT or checkpoint.key != key:
        raise CheckpointError(
            f"{path}: of format {found} and run {str(checkpoint.key)[:8]}, not {FORMAT} and {key[:8]}"
        )
    kinds = {"epoch": int, "prepared": bool, "method": dict, "optimizer": dict, "history": list, "trunk": bool}
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(checkpoint, name), kind)]
    for name, cost in costs.items():
        wrong += [f"{name}.{part}" for part, value in cost.as_dict().items() if not isinstance(value, NUMBER)]
    if "history" not in wrong and not all(isinstance(line, dict) for line in checkpoint.history):
        wrong.append("history")
    if wrong:
        raise CheckpointError(f"{path}: not a checkpoint: {', '.join(wrong)} of another kind")
    return checkpoint


def check_fits(saved: Checkpoint, path: Path, state: Mapping[str, Any], optimizer: Optimizer | None) -> None:
    """Check that a checkpoint can be loaded completely, before anything of it is.

    Args:
        saved: the checkpoint.
        path: where it lies, for messages.
        state: the state that it replaces: the method's, or the part of it that a trunk has.
        optimizer: the method's optimizer; None if it trains nothing.

    Raises:
        CheckpointError: saying what does not fit.
    """
    for name in sorted(state.keys() ^ saved.method.keys()):
        raise CheckpointError(f"{path}: only {'the method' if name in state else 'the file'} has a state {name}")
    for name, value in state.items():
        if kind_of(value) != kind_of(saved.method[name]):
            raise CheckpointError(f"{path}: {name} is {kind_of(saved.method[name])}, not {kind_of(value)}")
    parameters = parameters_by_name(optimizer) if optimizer else {}
    for name, values in saved.optimizer.items() if optimizer else ():
        shapes = {value.shape for value in values.values() if isinstance(value, Tensor) and value.dim()}
        if name not in parameters or shapes - {parameters[name].shape}:
            raise CheckpointError(f"{path}: the optimizer's state of {name} is that of another parameter")


def kind_of(value: Any) -> str:
    """Return the shape and the kind of numbers of a tensor; of what is no tensor, whether it is a mapping.

    Loading converts numbers of one kind: a buffer may become float64 in training.
    """
    if isinstance(value, Tensor):
        kind = "complex" if value.is_complex() else "floating" if value.is_floating_point() else "whole"
        return f"{kind} numbers {tuple(value.shape)}"
    return "a mapping" if isinstance(value, dict) else "no tensor"


def optimizer_state(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Return the optimizer's state by parameter name. A parameter that never had a gradient has no state."""
    return {name: optimizer.state[p] for name, p in parameters_by_name(optimizer).items() if p in optimizer.state}


def load_optimizer_state(optimizer: Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """Load optimizer state by parameter name. Each tensor is moved to its parameter's device."""
    parameters = parameters_by_name(optimizer)
    for name, values in state.items():
        p = parameters[name]
        optimizer.state[p] = {
            key: value.to(p.device) if isinstance(value, Tensor) else value for key, value in values.items()
        }


def parameters_by_name(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's parameters by name."""
    return {
        name: p
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }


def check_parameter_names(method: Method) -> None:
    """Check that the parameter names of a method are unique.

    Raises:
        ValueError: naming the first parameter that appears twice.
    """
    seen: set[str] = set()
    for group in method.param_groups():
        for name, _ in group["params"]:
            if name in seen:
                raise ValueError(f"{type(method).__name__}.param_groups: {name!r} appears twice")
            seen.add(name)
