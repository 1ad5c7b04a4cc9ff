"""A method around another one: it trains as the inner method does, and collects or changes something."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.core.declarations import Anchor, Batch, Need, Sharing, Trunk, Weights
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe

UNTIL_START = Sharing(lambda method: Trunk(method.inner, method.start_epoch))
"""Of a method that only collects from `start_epoch` on."""


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
        """Move the weights of a copy towards the inner method's.

        Args:
            copy: made by `copy_inner`.
            share: of the inner method's weights in the result; 1 copies them.
        """
        for mine, theirs in zip(copy.parameters(), self.inner.parameters(), strict=True):
            mine.lerp_(theirs, share)

    @torch.no_grad()
    def follow(self, copy: Method) -> None:
        """Give a copy all of the inner method's state but its weights: buffers, epoch."""
        for buffer, value in zip(copy.buffers(), self.inner.buffers(), strict=True):
            buffer.copy_(value)
        for follower, method in zip(methods_within(copy), methods_within(self.inner), strict=True):
            follower.set_extra_state(method.get_extra_state())

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

    def predictors(self) -> Iterable[Method]:
        """Give the methods whose members predict, now: the inner one, or copies of it."""
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

    def anchors(self) -> Iterable[Anchor]:
        """Give the anchors of every predictor."""
        return (anchor for method in self.predictors() for anchor in method.anchors())

    def along(self, alpha: float) -> list[float]:
        """Ask the inner method, between whose anchors the path runs."""
        return self.inner.along(alpha)


class Collector(Wrapper):
    """Collect states of the inner method at the ends of some epochs, each at the end of a cycle of the rate.

    Attributes:
        first: the epoch in which the first cycle begins.
        ends: how many epochs are done when each state is collected.
        snapshots: the copies that hold the collected states; empty where a subclass keeps something else of them.
    """

    first: int
    ends: list[int]
    snapshots: nn.ModuleList

    def collect_at(self, ends: Iterable[int], *, first: int, keep: bool = True) -> None:
        """Say when to collect, and whether to keep the states; for `__init__` only."""
        self.first, self.ends = first, list(ends)
        self.snapshots = nn.ModuleList(self.copy_inner() for _ in self.ends if keep)

    @property
    def taken(self) -> int:
        """How many states are collected by the end of the current epoch."""
        return bisect_right(self.ends, self.epoch + 1)

    def progress(self, epoch: float) -> float:
        """Say how much of its cycle is over at a position in training, not before `first`: a number in [0, 1)."""
        cycle = min(bisect_right(self.ends, epoch), len(self.ends) - 1)
        begin = self.ends[cycle - 1] if cycle else self.first
        return (epoch - begin) / (self.ends[cycle] - begin)

    def end_epoch(self, epoch: int) -> None:
        """Collect the state at the end of a cycle."""
        super().end_epoch(epoch)
        if epoch + 1 in self.ends:
            self.collect(self.ends.index(epoch + 1))

    def collect(self, i: int) -> None:
        """Collect the state at the end of cycle i."""
        self.keep(i)

    def keep(self, i: int) -> None:
        """Keep a copy of the state at the end of cycle i, if copies are kept."""
        if self.snapshots:
            self.snapshots[i].load_state_dict(self.inner.state_dict())

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Show held-out data to the inner method; a state that was just kept is kept anew, with what it learnt."""
        super().watch(held_out, training)
        if self.epoch + 1 in self.ends:
            self.keep(self.ends.index(self.epoch + 1))

    def predictors(self) -> Iterable[Method]:
        """Predict with the states collected so far; before the first, with the inner method."""
        return list(self.snapshots)[: self.taken] or [self.inner]  # type: ignore[return-value]


def equally_spaced(count: int, what: str, *, first: int, epochs: int) -> list[int]:
    """Divide the epochs from `first` on into cycles of equal length (to a whole epoch), and give their ends.

    Raises:
        ValueError: naming `what`, when a cycle would be shorter than an epoch.
    """
    length = epochs - first
    if length < count:
        raise ValueError(f"{what} do not fit into {length} epochs")
    return [first + round((i + 1) * length / count) for i in range(count)]


def methods_within(method: Method) -> list[Method]:
    """List a method and the methods inside it."""
    return [part for part in method.modules() if isinstance(part, Method)]
