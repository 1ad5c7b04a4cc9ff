"""Base classes of methods that wrap another method: they train it, and collect or change something."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.core.declarations import Anchor, Batch, Need, Sharing, Trunk, Weights
from methods.core.layers import copy_module
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe

SHARED_UNTIL_START = Sharing(lambda method: Trunk(method.inner, method.start_epoch))
"""The declaration of a wrapper that changes nothing before `start_epoch`."""


class Wrapper(Method):
    """Wrap an inner method: every hook calls the inner method's hook.

    An override of `loss` or `forward` in a wrapper does not change training: the inner method's `update` calls the
    inner method's own. Likewise `predict` calls the inner method's `predict`. A wrapper that overrides one of `loss`,
    `forward` and `predict_with` and not its caller is refused.

    Attributes:
        prediction_only: whether the wrapper changes nothing but the prediction, so that it may also wrap a method that
            trains nothing itself, such as a deep ensemble. A subclass does not inherit this permission.
        inner: the wrapped method.
    """

    prediction_only: ClassVar[bool] = False

    def __init__(self, make_net: MakeNet, recipe: Recipe, of: MakeMethod) -> None:
        """Build the inner method.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: builds the inner method.

        Raises:
            ValueError: if the inner method trains no network itself, and this wrapper does not allow that; or if an
                override of the wrapper would never be called.
        """
        nn.Module.__init__(self)
        self.inner = of(make_net, recipe)
        self.init_attributes(self.inner.recipe, self.inner.seed, epochs=self.inner.epochs)
        outer, inner = type(self).__name__, type(self.inner).__name__
        if self.watches and self.inner.watches not in (None, self.watches):
            raise ValueError(f"{outer} watches {self.watches} data, and {inner} inside it {self.inner.watches} data")
        self.watches = self.watches or self.inner.watches
        for hook, caller in (("loss", "update"), ("forward", "update"), ("predict_with", "predict")):
            if getattr(type(self), hook) is not getattr(Wrapper, hook) and getattr(type(self), caller) is getattr(
                Wrapper, caller
            ):
                raise ValueError(
                    f"{outer}.{hook} would never be called: `{caller}` of a wrapper calls the inner method's own; "
                    f"override `{caller}`"
                )
        if not self.inner.epochs and not vars(type(self)).get("prediction_only", False):
            raise ValueError(
                f"{outer} cannot be made of {inner}, which trains no network itself; put it inside of {inner} "
                "(a wrapper that changes nothing but the prediction may allow it: prediction_only = True)"
            )

    @property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network of the inner method."""
        return self.inner.net

    def copy_inner(self, *, stale: bool = False) -> Method:
        """Return a frozen copy of the inner method, to be filled with collected states later.

        Args:
            stale: whether the copy's weights will be averages, so that its running statistics must be re-estimated.
        """
        copy = copy_module(self.inner).requires_grad_(False)
        for method in methods_within(copy):
            method.collected = True
            method.statistics_stale |= stale
        return copy

    @torch.no_grad()
    def move_weights_towards_inner(self, copy: Method, share: float) -> None:
        """Interpolate the weights of a copy linearly towards those of the inner method, in place.

        Args:
            copy: what `copy_inner` returned.
            share: the weight of the inner method in the result; 1 copies its weights.

        Raises:
            ValueError: if the copy does not know that its weights are averages, so that its running statistics would
                stay those of other weights.
        """
        if share != 1 and not copy.statistics_stale:
            raise ValueError("a copy whose weights are averages is made by copy_inner(stale=True)")
        for value, target in zip(copy.weights_to_average(), self.inner.weights_to_average(), strict=True):
            value.lerp_(target, share)

    @torch.no_grad()
    def copy_the_rest(self, copy: Method) -> None:
        """Copy all of the inner method's state to a copy, but the weights that an average is made of."""
        averaged = {id(weights) for weights in copy.weights_to_average()}
        whole, own = ([*method.parameters(), *method.buffers()] for method in (copy, self.inner))
        for tensor, value in zip(whole, own, strict=True):
            if id(tensor) not in averaged:
                tensor.copy_(value)
        for target, method in zip(methods_within(copy), methods_within(self.inner), strict=True):
            target.set_extra_state(method.get_extra_state())

    def needs(self) -> list[Need]:
        """Return the inner method's needs, one level further inside."""
        return [need._replace(level=need.level + 1) for need in self.inner.needs()]

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Pass the states to the inner method."""
        self.inner.receive(states)

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch in the inner method, then in this one."""
        self.inner.begin_epoch(epoch)
        super().begin_epoch(epoch)

    def batches_per_update(self) -> int:
        """Return what the inner method returns."""
        return self.inner.batches_per_update()

    def data_orders(self) -> int:
        """Return what the inner method returns."""
        return self.inner.data_orders()

    def lr(self, epoch: float) -> float:
        """Return what the inner method returns."""
        return self.inner.lr(epoch)

    def resets_optimizer(self, epoch: int) -> bool:
        """Return what the inner method returns."""
        return self.inner.resets_optimizer(epoch)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return what the inner method returns."""
        return self.inner.param_groups()

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network of the inner method."""
        return self.inner(x, weights)  # type: ignore[no-any-return]

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Return what the inner method returns."""
        return self.inner.loss(x, y, weights)

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Let the inner method take the step."""
        return self.inner.update(batches, optimizer)

    def end_epoch(self, epoch: int) -> None:
        """Finish the epoch in the inner method."""
        self.inner.end_epoch(epoch)

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Pass the held-out data to the inner method."""
        self.inner.watch(held_out, training)

    def predictors(self) -> Iterable[Method]:
        """Return the methods whose members predict at present: the inner method, or copies of it."""
        return [self.inner]

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Return the members of every predictor."""
        return (weights for method in self.predictors() for weights in method.members())

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Prepare every predictor."""
        for method in self.predictors():
            method.prepare(batches)

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of the members of every predictor, (K, B, C)."""
        return torch.cat([method.predict(x) for method in self.predictors()])

    def predict_with(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Predict as the inner method does."""
        return self.inner.predict_with(x, weights)

    def weights_to_average(self) -> list[Tensor]:
        """Return what the inner method returns, then the wrapper's own parameters."""
        inner = {id(p) for p in self.inner.parameters()}
        averaged = self.inner.weights_to_average()
        return [*averaged, *(p for p in self.parameters() if id(p) not in inner)] if averaged else []

    def anchors(self) -> Iterable[Anchor]:
        """Return the anchors of every predictor."""
        return (anchor for method in self.predictors() for anchor in method.anchors())

    def along(self, alpha: float) -> list[float]:
        """Return what the inner method returns: the path runs between its anchors."""
        return self.inner.along(alpha)


class Collector(Wrapper):
    """Collect states of the inner method, each at the end of a cycle of the learning rate.

    Attributes:
        first_epoch: the epoch in which the first cycle begins.
        cycle_ends: for each cycle, how many epochs are done at its end.
        snapshots: copies of the inner method that hold the collected states; empty if a subclass collects otherwise.
    """

    first_epoch: int
    cycle_ends: list[int]
    snapshots: nn.ModuleList

    def set_cycles(self, ends: Iterable[int], *, first_epoch: int, keep_snapshots: bool = True) -> None:
        """Set the cycles; call this only in `__init__`.

        Args:
            ends: for each cycle, how many epochs are done at its end.
            first_epoch: the epoch in which the first cycle begins.
            keep_snapshots: whether to keep a copy of each collected state.
        """
        self.first_epoch, self.cycle_ends = first_epoch, list(ends)
        self.snapshots = nn.ModuleList(self.copy_inner() for _ in self.cycle_ends if keep_snapshots)

    def follows_inner(self, epoch: float) -> bool:
        """Return whether the learning rate at a position in training is the inner method's; a subclass may override."""
        return True

    def resets_optimizer(self, epoch: int) -> bool:
        """Return what the inner method returns while its learning rate is followed, otherwise False."""
        return self.follows_inner(epoch) and self.inner.resets_optimizer(epoch)

    @property
    def collected_count(self) -> int:
        """How many states are collected by the end of the current epoch."""
        return bisect_right(self.cycle_ends, self.epoch + 1)

    def cycle_progress(self, epoch: float) -> float:
        """Return the fraction of its cycle that is over at a position in training, in [0, 1).

        Args:
            epoch: whole epochs since the start of training, plus the fraction of the current one; ≥ `first_epoch`.
        """
        cycle = min(bisect_right(self.cycle_ends, epoch), len(self.cycle_ends) - 1)
        begin = self.cycle_ends[cycle - 1] if cycle else self.first_epoch
        return (epoch - begin) / (self.cycle_ends[cycle] - begin)

    def end_epoch(self, epoch: int) -> None:
        """Finish the epoch, and collect the state if a cycle ends."""
        super().end_epoch(epoch)
        if epoch + 1 in self.cycle_ends:
            self.collect(self.cycle_ends.index(epoch + 1))

    def collect(self, i: int) -> None:
        """Collect the state at the end of cycle i."""
        self.save_snapshot(i)

    def save_snapshot(self, i: int) -> None:
        """Copy the state at the end of cycle i to its snapshot, if snapshots are kept."""
        if self.snapshots:
            self.snapshots[i].load_state_dict(self.inner.state_dict())

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Pass the held-out data to the inner method, and save the snapshot of this epoch again with what changed."""
        super().watch(held_out, training)
        if self.epoch + 1 in self.cycle_ends:
            self.save_snapshot(self.cycle_ends.index(self.epoch + 1))

    def predictors(self) -> Iterable[Method]:
        """Return the snapshots collected so far; before the first, the inner method."""
        return list(self.snapshots)[: self.collected_count] or [self.inner]  # type: ignore[return-value]


def equal_cycle_ends(count: int, what: str, *, first: int, epochs: int) -> list[int]:
    """Return the ends of cycles of equal length, to a whole epoch, which fill training from an epoch on.

    Args:
        count: the number of cycles.
        what: what the cycles are, for the error message.
        first: the epoch in which the first cycle begins.
        epochs: the number of epochs of training.

    Raises:
        ValueError: if a cycle would be shorter than an epoch.
    """
    length = epochs - first
    if length < count:
        raise ValueError(f"{what} do not fit into {length} epochs")
    return [first + round((i + 1) * length / count) for i in range(count)]


def methods_within(method: Method) -> list[Method]:
    """Return a method and all methods inside it."""
    found: list[Method] = []
    waiting: list[nn.Module] = [method]
    while waiting:  # in the order of `method.modules()`, which makes the name of each module too
        module = waiting.pop()
        if isinstance(module, Method) and module not in found:
            found.append(module)
        waiting += [part for part in reversed(module._modules.values()) if part is not None]
    return found
