"""Compiles networks by `torch.compile`, for the minibatches of training."""

from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from methods import Method
from methods.core.fused_members import FusedForwards, current_forwards


class CompiledForward:
    """A network's forward, compiled for one size of minibatch in training, and for one cycle of fused members.

    Only the forward is compiled, so that the network's hooks (cost, precision) stay as they are. Everything else runs
    uncompiled. Each other size, such as that of an epoch's last minibatch, would be compiled again, which takes longer
    than it saves. The same holds for cycles whose order of members differs from epoch to epoch, and for evaluation,
    where networks see few batches of each size. Members' weights that replace the network's are inputs of the same
    program.
    """

    def __init__(self, net: nn.Module, run: Any) -> None:
        """Wrap a network's compiled forward.

        Args:
            net: the network.
            run: the forward of its class, compiled.
        """
        self.net, self.run = ref(net), run  # the network holds this object: it must be free to go
        self.programs: dict[bool, tuple[FusedForwards | None, torch.Size]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledForward":
        """Return the forward of the copied network, which shares the program."""
        return CompiledForward(memo[id(self.net())], self.run)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network, compiled if this is the size and cycle for which it is compiled."""
        net = self.net()
        assert net is not None
        forward = type(net).forward
        forwards = current_forwards(net)
        if net.training and torch.is_grad_enabled() and (forwards is None or forwards.worth_compiling):
            asked = (forwards, x.shape)
            if self.programs.setdefault(forwards is not None, asked) == asked:
                forward = self.run
        return forward(net, x)  # type: ignore[no-any-return]


def compile_forward(net: nn.Module, mode: str) -> None:
    """Compile a network's forward when it first trains.

    Args:
        net: the network.
        mode: the mode of `torch.compile`: "default", or "reduce-overhead" for CUDA graphs.
    """
    from torch._inductor import config  # imported here, because that takes a second or two

    config.fallback_random = True  # dropout then draws the same numbers as uncompiled
    run = torch.compile(type(net).forward, mode=mode, dynamic=False)
    net.__dict__["forward"] = CompiledForward(net, run)


def clone_gradients(method: Method) -> None:
    """Copy gradients out of the memory of CUDA graphs, because the next replay of a graph overwrites that memory.

    Otherwise, several backward passes before a step would accumulate overwritten gradients.
    """
    for p in method.parameters():
        if p.requires_grad:
            p.register_hook(torch.clone)  # type: ignore[no-untyped-call]
