"""A method around another one: it trains as the inner method does, and collects or changes something."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.base import Batch, MakeMethod, Method, Need, Weights
from methods.recipe import Recipe
from methods.streams import MakeNet


class Wrapper(Method):
    """Hand every hook to the inner method.

    An override of `loss` or `forward` here never reaches the inner method, whose `update` calls its own.
    """

    def __init__(self, make_net: MakeNet, recipe: Recipe, of: MakeMethod) -> None:
        """Build the inner method.

        Raises:
            ValueError: when the inner method trains nothing itself.
        """
        nn.Module.__init__(self)
        self.inner = of(make_net, recipe)
        self.settle(self.inner.recipe, self.inner.seed, epochs=self.inner.epochs)
        self.watches = self.inner.watches
        me, it = type(self).__name__, type(self.inner).__name__
        if not self.inner.epochs:
            raise ValueError(f"{me} cannot be made of {it}, which trains no network itself; put it inside of {it}")

    @property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network of the inner method."""
        return self.inner.net

    def copy_inner(self, *, stale: bool = False) -> Method:
        """Make a frozen copy of the inner method, to be filled later.

        Args:
            stale: the copy's weights will be averages, so that its running statistics must be re-estimated.
        """
        copy = deepcopy(self.inner).requires_grad_(False)
        for method in methods_within(copy):
            method.collected = True
            method.statistics_stale |= stale
        return copy

    @torch.no_grad()
    def blend(self, copy: Method, share: float) -> None:
        """Move the weights of a copy towards the inner method's; its buffers and its epoch become the inner's.

        Args:
            copy: made by `copy_inner`.
            share: of the inner method's weights in the result; 1 copies them.
        """
        for mine, theirs in zip(copy.parameters(), self.inner.parameters(), strict=True):
            mine.lerp_(theirs, share)
        for buffer, value in zip(copy.buffers(), self.inner.buffers(), strict=True):
            buffer.copy_(value)
        for follower, method in zip(methods_within(copy), methods_within(self.inner), strict=True):
            follower.epoch = method.epoch

    def needs(self) -> list[Need]:
        """List what the inner method needs, one step further in."""
        return [need._replace(level=need.level + 1) for need in self.inner.needs()]

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Give the states to the inner method."""
        self.inner.receive(states)

    def begin_epoch(self, epoch: int) -> None:
        """Let the inner method enter the epoch, then this one."""
        self.inner.begin_epoch(epoch)
        super().begin_epoch(epoch)

    def batches_per_update(self) -> int:
        """Ask the inner method."""
        return self.inner.batches_per_update()

    def data_orders(self) -> int:
        """Ask the inner method."""
        return self.inner.data_orders()

    def lr(self, epoch: float) -> float:
        """Ask the inner method."""
        return self.inner.lr(epoch)

    def param_groups(self) -> list[dict[str, Any]]:
        """Ask the inner method."""
        return self.inner.param_groups()

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network of the inner method."""
        return self.inner(x, weights)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Ask the inner method."""
        return self.inner.loss(x, y, weights)

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Let the inner method take its step."""
        return self.inner.update(batches, optimizer)

    def end_epoch(self, epoch: int) -> None:
        """Let the inner method leave the epoch."""
        self.inner.end_epoch(epoch)

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Show held-out data to the inner method."""
        self.inner.watch(held_out, training)

    def predictors(self) -> list[Method]:
        """List the methods whose members predict, now: the inner one, or copies of it."""
        return [self.inner]

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the members of every predictor."""
        return (weights for method in self.predictors() for weights in method.members())

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Prepare every predictor."""
        for method in self.predictors():
            method.prepare(batches)

    def predict(self, x: Tensor) -> Tensor:
        """Give the logits of the members of every predictor, (K, B, C)."""
        return torch.cat([method.predict(x) for method in self.predictors()])


def methods_within(method: Method) -> list[Method]:
    """List a method and the methods inside it."""
    return [part for part in method.modules() if isinstance(part, Method)]
