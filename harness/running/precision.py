"""Autocast inside a network's forward: bfloat16 arithmetic, float32 weights, float32 out."""

from typing import Any

import torch
from torch import Tensor, nn


class Autocast:
    """A pair of hooks that run a network's forward under autocast.

    Autocast around a whole update would reuse casts of weights that a step has changed.
    """

    def __init__(self, device_type: str) -> None:
        """Cast on devices of this type."""
        self.device_type = device_type
        self.entered: list[torch.autocast] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Autocast":
        """Make hooks of its own for a copied network."""
        return Autocast(self.device_type)

    def enter(self, net: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Before the forward."""
        context = torch.autocast(self.device_type, dtype=torch.bfloat16)
        context.__enter__()  # type: ignore[no-untyped-call]
        self.entered.append(context)

    def leave(self, net: nn.Module, arguments: tuple[Tensor, ...], output: Tensor | None) -> Tensor | None:
        """After the forward, even one that raised."""
        self.entered.pop().__exit__(None, None, None)
        return None if output is None else output.float()


def use_bfloat16(net: nn.Module, device_type: str) -> None:
    """Let a network compute in bfloat16."""
    hooks = Autocast(device_type)
    net.register_forward_pre_hook(hooks.enter)
    net.register_forward_hook(hooks.leave, always_call=True)
