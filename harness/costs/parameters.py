"""How many parameters a method trains, and how many it keeps for prediction."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.costs.cost import BATCH_NORM_STATISTICS
from methods import Method


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
    with StorageReadRecorder() as reads:
        method.predict(x)
    named = [*method.named_parameters(), *method.named_buffers()]
    kept = [t for name, t in named if t.is_floating_point() and re.split("[./]", name)[-1] not in BATCH_NORM_STATISTICS]
    return sum(t.numel() for t in kept if storage_address(t) in reads.addresses)


def parameters_of_members(method: Method) -> int:
    """Count the parameters of all members: the method's own tensors once, those computed for a member each time."""
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
    """Say where in memory a tensor's numbers lie; a view lies where its base does."""
    return t.untyped_storage().data_ptr()


class StorageReadRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes where the tensors lie that operations read; making a view reads nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.addresses: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operation's arguments, and do it."""
        if not func.is_view:
            self.addresses |= {storage_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        return func(*args, **(kwargs or {}))
