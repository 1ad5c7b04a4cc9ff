"""Autocast inside a network's forward: arithmetic in bfloat16, weights and outputs in float32."""

from typing import Any

import torch
from torch import Tensor, nn


class Autocast:
    """A pair of hooks that run a network's forward under autocast.

    Autocast around a whole update would be wrong: it caches casts of weights, which a step then changes.
    """

    def __init__(self, device_type: str) -> None:
        """Create hooks for a device type, "cpu" or "cuda"."""
        self.device_type = device_type
        self.entered: list[torch.autocast] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Autocast":
        """Return separate hooks for a copied network."""
        return Autocast(self.device_type)

    def enter(self, net: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Enter autocast before the forward."""
        context = torch.autocast(self.device_type, dtype=torch.bfloat16)
        context.__enter__()  # type: ignore[no-untyped-call]
        self.entered.append(context)

    def leave(self, net: nn.Module, arguments: tuple[Tensor, ...], output: Tensor | None) -> Tensor | None:
        """Leave autocast after the forward, also after an error; return the output in float32."""
        self.entered.pop().__exit__(None, None, None)
        return None if output is None else output.float()


def use_bfloat16(net: nn.Module, device_type: str) -> None:
    """Make a network compute in bfloat16.

    Args:
        net: the network.
        device_type: the type of its device, "cpu" or "cuda".
    """
    hooks = Autocast(device_type)
    net.register_forward_pre_hook(hooks.enter)
    net.register_forward_hook(hooks.leave, always_call=True)
