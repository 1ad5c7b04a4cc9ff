"""Networks compiled by torch: kernels that do several operations at once, for the minibatches of training."""

from typing import Any

import torch
from torch import Tensor, nn


class CompiledForward:
    """A network's forward, compiled for one size of minibatch in training; all else is run as it is written.

    Only the forward is compiled, so that hooks of the network (cost, precision) stay as they are. Other sizes, such as
    an epoch's last minibatch, would be compiled anew each, which takes longer than it saves; in evaluation, networks
    see few batches of each size. Members' weights that take the place of the network's are inputs of the same
    program.
    """

    def __init__(self, net: nn.Module, run: Any) -> None:
        """Take the place of a network's forward.

        Args:
            net: the network.
            run: the forward of its class, compiled.
        """
        self.net, self.run = net, run
        self.size: torch.Size | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledForward":
        """Be the forward of the copied network, with the same program."""
        return CompiledForward(memo[id(self.net)], self.run)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network."""
        plain = not (self.net.training and torch.is_grad_enabled())
        if not plain and self.size is None:
            self.size = x.shape
        forward = type(self.net).forward if plain or x.shape != self.size else self.run
        return forward(self.net, x)  # type: ignore[no-any-return]


def compile_forward(net: nn.Module, mode: str) -> None:
    """Let a network's forward be compiled when it first trains.

    Args:
        net: the network.
        mode: of `torch.compile`: "default", or "reduce-overhead" for CUDA graphs.
    """
    run = torch.compile(type(net).forward, mode=mode, dynamic=False)
    net.__dict__["forward"] = CompiledForward(net, run)
