"""Networks compiled by torch: kernels that do several operations at once, for the minibatches of training."""

from typing import Any

import torch
from torch import Tensor, nn

from methods import Method
from methods.core.fused import Acts, what_acts


class CompiledForward:
    """A network's forward, compiled for one size of minibatch in training, and for one cycle of fused members.

    Only the forward is compiled, so that hooks of the network (cost, precision) stay as they are. All else is run as it
    is written: other sizes, such as an epoch's last minibatch, would be compiled anew each, which takes longer than it
    saves, and so would cycles whose order of members differs from epoch to epoch; in evaluation, networks see few
    batches of each size. Members' weights that take the place of the network's are inputs of the same program.
    """

    def __init__(self, net: nn.Module, run: Any) -> None:
        """Take the place of a network's forward.

        Args:
            net: the network.
            run: the forward of its class, compiled.
        """
        self.net, self.run = net, run
        self.programs: dict[bool, tuple[Acts | None, torch.Size]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledForward":
        """Be the forward of the copied network, with the same program."""
        return CompiledForward(memo[id(self.net)], self.run)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network."""
        forward = type(self.net).forward
        acts = what_acts(self.net)
        if self.net.training and torch.is_grad_enabled() and (acts is None or acts.repeats):
            asked = (acts, x.shape)
            if self.programs.setdefault(acts is not None, asked) == asked:
                forward = self.run
        return forward(self.net, x)  # type: ignore[no-any-return]


def compile_forward(net: nn.Module, mode: str) -> None:
    """Let a network's forward be compiled when it first trains.

    Args:
        net: the network.
        mode: of `torch.compile`: "default", or "reduce-overhead" for CUDA graphs.
    """
    from torch._inductor import config  # here, as importing it takes a second or two

    config.fallback_random = True  # dropout then draws the numbers that it draws uncompiled
    run = torch.compile(type(net).forward, mode=mode, dynamic=False)
    net.__dict__["forward"] = CompiledForward(net, run)


def clone_gradients(method: Method) -> None:
    """Let gradients be copied out of the memory of CUDA graphs, whose next replay overwrites them.

    Without that, several backward passes before a step would add up what is no longer there.
    """
    for p in method.parameters():
        if p.requires_grad:
            p.register_hook(torch.clone)  # type: ignore[no-untyped-call]
