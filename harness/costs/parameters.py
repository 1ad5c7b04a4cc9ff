"""Counts the parameters that a method trains, and those that it keeps for prediction."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.costs.cost import BATCH_NORM_STATISTICS
from methods import Method


def parameters_trained(method: Method) -> int:
    """Count the parameters that the training of a method changes."""
    return sum(p.numel() for group in method.param_groups() for _, p in group["params"])


@torch.no_grad()
def parameters_kept(method: Method, x: Tensor) -> int:
    """Count the parameters that prediction needs.

    A trained method can be stored as its own parameters or as its members' weights. The smaller number counts. For
    example, the midpoint of a line is one network, although it is computed from two. Members that are computed from
    shared weights and a few vectors each are stored as these weights and vectors.

    Args:
        method: prepared for prediction, in evaluation mode.
        x: a few examples, (B, …).
    """
    return min(parameters_read(method, x), parameters_of_members(method))


def parameters_read(method: Method, x: Tensor) -> int:
    """Count the values of the parameters and buffers that `predict` reads, without BatchNorm's statistics."""
    with StorageReadRecorder() as reads:
        method.predict(x)
    named = [*method.named_parameters(), *method.named_buffers()]
    kept = [t for name, t in named if t.is_floating_point() and re.split("[./]", name)[-1] not in BATCH_NORM_STATISTICS]
    return sum(t.numel() for t in kept if storage_address(t) in reads.addresses)


def parameters_of_members(method: Method) -> int:
    """Count the parameters of all members.

    The method's own tensors count once. Tensors computed for a member count each time.
    """
    own = {
        storage_address(t) for t in [*method.parameters(), *method.buffers()]
    }  # alive, so that no other tensor is there
    buffers = {name for name, _ in method.net.named_buffers()}
    shared: dict[tuple[int, int, int], int] = {}
    computed = 0
    for weights in method.members():
        for t in (t for name, t in weights.items() if name not in buffers):
            if storage_address(t) in own:
                shared[storage_address(t), int(t.storage_offset()), t.numel()] = t.numel()
            else:
                computed += t.numel()
    return computed + sum(shared.values())


def storage_address(t: Tensor) -> int:
    """Return the memory address of a tensor's storage, which a view shares with its base."""
    return t.untyped_storage().data_ptr()


class StorageReadRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the storage addresses of all tensors that operations read. Making a view reads nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.addresses: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the arguments of an operation, and execute it."""
        if not func.is_view:
            self.addresses |= {storage_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        return func(*args, **(kwargs or {}))
