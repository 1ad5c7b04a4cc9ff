"""Checkpoints: where a run's training stands, saved by names and loaded into a method built alike."""

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.costs.cost import Cost
from harness.store.run_folder import write_atomically
from methods import Method

FORMAT = 2


class CheckpointError(Exception):
    """A checkpoint that cannot be read."""


@dataclass
class Checkpoint:
    """The state of a run at the end of an epoch, or finished.

    Attributes:
        key: of the run.
        epoch: epochs done.
        prepared: whether the method was prepared for prediction: the finished state.
        method: its `state_dict`.
        optimizer: its state by parameter name; empty in a finished state.
        cost: so far.
        history: the lines of metrics.jsonl so far, so that file and state cannot disagree.
        trunk: whether the method's state is only what the forks of a trunk have in common.
        inherited: what of the cost a trunk had cost already.
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
        """Write the checkpoint in place of the one before."""
        costs = {"cost": self.cost.as_dict(), "inherited": self.inherited.as_dict()}
        content = {**vars(self), **costs, "format": FORMAT}
        whole = io.BytesIO()  # torch hides a full disk behind an error of its own
        torch.save(content, whole)
        write_atomically(path, lambda file: file.write(whole.getbuffer()))


def load(path: Path, key: str) -> Checkpoint:
    """Read a checkpoint to the CPU; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: if it cannot be read, or belongs to another run or format.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself would take changed bytes for weights
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content.pop("format")
        costs = {name: Cost(**content[name]) for name in ("cost", "inherited") if name in content}
        checkpoint = Checkpoint(**{**content, **costs})
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # there is hardly one that garbage cannot raise
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if found != FORMAT or checkpoint.key != key:
        raise CheckpointError(f"{path}: of format {found} and run {checkpoint.key[:8]}, not {FORMAT} and {key[:8]}")
    return checkpoint


def optimizer_state(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Give the optimizer's state by parameter name; a parameter that never had a gradient has none."""
    return {name: optimizer.state[p] for name, p in parameters_by_name(optimizer).items() if p in optimizer.state}


def load_optimizer_state(optimizer: Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """Load state by parameter name, each tensor to where its parameter lives."""
    parameters = parameters_by_name(optimizer)
    for name, values in state.items():
        p = parameters[name]
        optimizer.state[p] = {
            key: value.to(p.device) if isinstance(value, Tensor) else value for key, value in values.items()
        }


def parameters_by_name(optimizer: Optimizer) -> dict[str, Tensor]:
    """List an optimizer's parameters by name."""
    return {
        name: p
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }


def check_parameter_names(method: Method) -> None:
    """Refuse a method whose parameter names are not unique.

    Raises:
        ValueError: naming the first one that appears twice.
    """
    seen: set[str] = set()
    for group in method.param_groups():
        for name, _ in group["params"]:
            if name in seen:
                raise ValueError(f"{type(method).__name__}.param_groups: {name!r} appears twice")
            seen.add(name)
