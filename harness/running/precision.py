"""Autocast inside a network's forward: arithmetic in bfloat16, weights and outputs in float32."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Autocast:
    """A pair of hooks that run a module's forward under autocast, or without it inside of one that is.

    Autocast around a whole update would be wrong: it caches casts of weights, which a step then changes.
    """

    def __init__(self, device_type: str, *, enabled: bool = True) -> None:
        """Create hooks for a device type, "cpu" or "cuda".

        Args:
            device_type: the type of the module's device.
            enabled: whether to enter autocast. If not, the module computes in float32, inside autocast too.
        """
        self.device_type, self.enabled = device_type, enabled
        self.entered: list[torch.autocast] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Autocast":
        """Return separate hooks for a copied network."""
        return Autocast(self.device_type, enabled=self.enabled)

    def enter(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any] | None:
        """Enter or leave autocast before the forward; return the arguments in float32 if it is left."""
        context = torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.enabled)
        context.__enter__()  # type: ignore[no-untyped-call]
        self.entered.append(context)
        return None if self.enabled else tree_map(in_float32, (arguments, keywords))

    def leave(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        """Undo what `enter` did after the forward, also after an error; return the output in float32."""
        self.entered.pop().__exit__(None, None, None)
        return tree_map(in_float32, output)


def in_float32(value: Any) -> Any:
    """Return a tensor of floating-point numbers in float32, and anything else unchanged."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def use_bfloat16(net: nn.Module, device_type: str) -> None:
    """Make a network compute in bfloat16, but for its recurrent layers, which compute in float32.

    Under autocast, torch gives cuDNN's recurrent layers float16 instead, in which most of a gradient becomes 0 without
    a scale for the loss; and a CPU has no bfloat16 for them at all.

    Args:
        net: the network.
        device_type: the type of its device, "cpu" or "cuda".
    """
    recurrent = [layer for layer in net.modules() if isinstance(layer, nn.RNNBase)]
    for module, enabled in [*((layer, False) for layer in recurrent), (net, True)]:
        hooks = Autocast(device_type, enabled=enabled)
        module.register_forward_pre_hook(hooks.enter, with_kwargs=True)
        module.register_forward_hook(hooks.leave, always_call=True)
