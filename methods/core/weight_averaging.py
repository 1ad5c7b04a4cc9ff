"""Base class of methods that average the weights of states late in training, and predict with points around it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.core.declarations import Anchor, Batch
from methods.core.layers import NamedBuffers, copy_module
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe, start_epoch_at
from methods.core.wrapper import Collector, equal_cycle_ends, methods_within


class WeightAveraging(Collector):
    """Average the weights of states that a high or cyclic learning rate reaches late in training.

    If the inner method has several members, each member's weights are averaged over time. The inner method then
    predicts with the averages. A subclass may predict with other points of the space that the states span: it calls
    `allocate_points` and defines `point_weights`.

    What is averaged is what the inner method's `weights_to_average` returns, by default its parameters.

    Attributes:
        average: a copy of the inner method that holds the mean of the collected states' weights.
        statistics: the buffers of each point with which the method predicts in place of the average, by name.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "start": FloatDistribution(0.5, 0.95),
        "ratio": FloatDistribution(0.05, 1.0, log=True),
    }

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod,
        start: Position = 0.8,
        ratio: Annotated[float, Field(gt=0)] | None = 0.5,
        rate: Literal["high", "cyclic"] = "high",
        low: Annotated[float, Field(gt=0)] | None = None,
        checkpoints: Annotated[int, Field(ge=1)] | None = None,
        before: Literal["own", "recipe"] = "own",
        anneal: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        """Collect from epoch `start` on.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            start: an epoch, or a fraction of all epochs.
            ratio: the learning rate while averaging, relative to the recipe's highest. None: the rate of the inner
                method, throughout.
            rate: "high" keeps that rate from `start` on. "cyclic" lets it fall linearly, minibatch by minibatch, to
                `low` before each collected state, and then start again.
            low: the lowest rate of a cycle, relative to the recipe's highest. None: 0.1, our choice, as in fast
                geometric ensembles of wide ResNets.
            checkpoints: how many states are collected, equally spaced (to a whole epoch), the last one at the end of
                training. None: the state at the end of each epoch. All states count equally.
            before: the rate before `start`. "own": a schedule of averaging replaces the recipe's, but for its warm-up:
                the recipe's highest rate, which falls linearly to `ratio` between 0.5 and 0.9 of `start` (the code of
                Izmailov et al.). "recipe": the rate of the inner method, which then changes to `ratio` along half a
                cosine (torch's SWALR).
            anneal: for before=recipe, how many epochs that change takes. None: 10, as in SWALR.

        Raises:
            ValueError: if the inner method cannot be averaged or keeps collected copies, or if averaging starts before
                its members exist; for more checkpoints than epochs; for a cycle without a `ratio`, or with one below
                `low`; for hyperparameters that have no effect.
        """
        super().__init__(make_net, recipe, of)
        outer, inner = type(self).__name__, type(self.inner).__name__
        if any(method.collected for method in methods_within(self.inner)):
            raise ValueError(
                f"{outer} cannot be made of {inner}, which keeps copies of its own: averaging them means nothing"
            )
        if not self.inner.weights_to_average():
            raise ValueError(f"{outer} cannot be made of {inner}, of which no average makes sense (weights_to_average)")
        self.start_epoch = start_epoch_at(start, self.epochs)
        for method in methods_within(self.inner):
            if self.start_epoch < method.start_epoch < self.epochs:
                raise ValueError(
                    f"averaging starts in epoch {self.start_epoch}, before {type(method).__name__} itself starts "
                    f"in epoch {method.start_epoch}: its members have no values yet"
                )
        if rate == "high" and low is not None:
            raise ValueError(f"low={low} is the lowest rate of a cycle; it needs rate=cyclic")
        self.ratio, self.rate, self.low = ratio, rate, 0.1 if low is None else low
        if rate == "cyclic" and (ratio is None or self.low > ratio):
            raise ValueError(f"rate=cyclic falls from ratio to low, but ratio={ratio} and low={self.low}")
        if before == "recipe" and ratio is None:
            raise ValueError("before=recipe is the default of ratio=None, which has no rate of its own")
        if anneal is not None and (before == "own" or rate == "cyclic"):
            raise ValueError(f"anneal={anneal} leads from the recipe's rate to a high one: before=recipe, rate=high")
        self.before, self.anneal = before, 10 if anneal is None else anneal
        self.highest_rate = self.recipe.highest_rate
        count = self.epochs - self.start_epoch if checkpoints is None else checkpoints
        ends = equal_cycle_ends(count, f"{count} checkpoints", first=self.start_epoch, epochs=self.epochs)
        self.set_cycles(ends, first_epoch=self.start_epoch, keep_snapshots=False)
        self.average = self.copy_inner(stale=True)
        self.statistics = nn.ModuleList()

    def allocate_points(self, count: int) -> None:
        """Predict with `count` points in place of the average; call this only in `__init__`."""
        buffers = NamedBuffers(self.kept_buffers().items())
        self.statistics.extend(copy_module(buffers) for _ in range(count))

    def kept_buffers(self) -> dict[str, Tensor]:
        """Return the buffers of `average` by name, without those that are averaged as weights."""
        averaged = {id(weights) for weights in self.average.weights_to_average()}
        return {name: buffer for name, buffer in self.average.named_buffers() if id(buffer) not in averaged}

    def lr(self, epoch: float) -> float:
        """Return the rate before `start`, then `ratio` of the recipe's, which stays or cycles; warm-up is kept."""
        if self.follows_inner(epoch):
            return self.inner.lr(epoch)
        own, share = self.recipe.warmup_factor(epoch) * self.own_rate(epoch), self.annealed(epoch)
        return own if share == 1.0 else share * own + (1.0 - share) * self.inner.lr(self.start_epoch)

    def follows_inner(self, epoch: float) -> bool:
        """Return whether the rate at a position in training is that of the inner method."""
        return self.ratio is None or (self.before == "recipe" and epoch < self.start_epoch)

    def annealed(self, epoch: float) -> float:
        """Return how far the rate is from the inner method's at `start` to that of averaging, from 0 to 1."""
        if self.before == "own" or self.rate == "cyclic" or not self.anneal:
            return 1.0
        return 0.5 * (1.0 - math.cos(math.pi * min((int(epoch) - self.start_epoch) / self.anneal, 1.0)))

    def own_rate(self, epoch: float) -> float:
        """Return the rate of the schedule of averaging, without warm-up."""
        assert self.ratio is not None
        if epoch >= self.start_epoch:
            # Deviation: the first minibatch of a cycle has the highest rate. In the paper (section 3.1) it is one step
            # lower, and the last minibatch has the lowest rate itself.
            fallen = self.cycle_progress(epoch) if self.rate == "cyclic" else 0.0
            return self.highest_rate * (self.ratio + (self.low - self.ratio) * fallen)
        start, end = 0.5 * self.start_epoch, 0.9 * self.start_epoch
        progress = min(max((int(epoch) - start) / (end - start), 0.0), 1.0)
        return self.highest_rate * (1.0 + (self.ratio - 1.0) * progress)

    def collect(self, i: int) -> None:
        """Add the state at the end of cycle i to the average."""
        super().collect(i)
        self.move_weights_towards_inner(self.average, 1.0 / (i + 1))
        self.copy_the_rest(self.average)

    def watch(self, held_out: Iterable[Batch], training: Iterable[Batch]) -> None:
        """Pass the held-out data to the inner method, and copy what changed of a state that was just collected."""
        super().watch(held_out, training)
        if self.epoch + 1 in self.cycle_ends:
            self.copy_the_rest(self.average)

    @property
    def has_enough_states(self) -> bool:
        """Whether enough states are collected to predict with them."""
        return self.collected_count > 0

    def predictors(self) -> Iterable[Method]:
        """Return the average, or the points if there are any; the inner method while too few states are collected."""
        if not self.has_enough_states:
            return [self.inner]
        return self.at_points(range(len(self.statistics))) if self.statistics else [self.average]

    # --- points of weight space, whose weights are computed on demand ----------------------------------------

    def point_weights(self, i: int, mean: Tensor) -> Tensor:
        """Return all weights of a point as one vector, (P,).

        Args:
            i: the point's number, counted from 0.
            mean: the weights of the average, (P,).
        """
        raise NotImplementedError

    @torch.no_grad()
    def at_points(self, points: Iterable[int]) -> Iterator[Method]:
        """Yield `average` with the weights and buffers of one point after another, and restore it at the end.

        Of a point, only its buffers are kept, with what is written to them (by `prepare`). Its weights are not.

        Args:
            points: numbers of points, counted from 0.
        """
        averaged, buffers = self.average.weights_to_average(), list(self.kept_buffers().values())
        mean, original = flatten(averaged), [buffer.clone() for buffer in buffers]
        try:
            for i in points:
                kept = list(self.statistics[i].buffers())
                copy_each(averaged, unflatten(self.point_weights(i, mean), averaged))
                copy_each(buffers, kept)
                yield self.average
                copy_each(kept, buffers)
        finally:
            copy_each(averaged, unflatten(mean, averaged))
            copy_each(buffers, original)

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Return the members of every predictor; those of a point are computed one point at a time."""
        if self.has_enough_states and self.statistics:
            return (weights for i in range(len(self.statistics)) for weights in self.point_members(i))
        return super().members()

    def point_members(self, i: int) -> list[dict[str, Tensor]]:
        """Return the members at point i, in new tensors."""
        return [
            {name: value.clone() for name, value in weights.items()}
            for method in self.at_points([i])
            for weights in method.members()
        ]

    def anchors(self) -> Iterable[Anchor]:
        """Return the members if points predict, otherwise the anchors of the average."""
        at_points = self.has_enough_states and len(self.statistics)
        return (Anchor(weights) for weights in self.members()) if at_points else super().anchors()

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Prepare every predictor; each point first gets the buffers of the average."""
        for statistics in self.statistics:
            copy_each(statistics.buffers(), self.kept_buffers().values())
        super().prepare(batches)


AVERAGE_REMEDY = (
    "override `weights_to_average`: return the tensors that the method predicts from, or [] if no average of it makes "
    "sense"
)
"""What to do about a method that is averaged in vain."""
LARGE = 0.9
"""The share of all averaged numbers that `depends_on` changes."""


class AverageInVainError(ValueError):
    """What was averaged has no part in the prediction."""


def check_averages(method: Method, x: Tensor) -> None:
    """Check that every average within a method is an average of what predicts.

    Args:
        method: prepared for prediction.
        x: a few inputs, (B, …), whose values do not matter.

    Raises:
        AverageInVainError: for the first average whose prediction does not depend on what was averaged.
    """
    for part in methods_within(method):
        if not isinstance(part, WeightAveraging) or not part.has_enough_states:
            continue
        if part.snapshots and not part.statistics:
            continue  # the collected states themselves predict
        averaged = [part.average, *part.snapshots]
        weights = [value for each in averaged for value in each.weights_to_average()]
        if not depends_on(part, weights, x):
            outer, inner = type(part).__name__, type(part.inner).__name__
            raise AverageInVainError(
                f"{outer} averages {inner} in vain: the prediction of {inner} does not depend on what is averaged; "
                f"{AVERAGE_REMEDY}"
            )


@torch.no_grad()
def depends_on(method: Method, weights: Sequence[Tensor], x: Tensor) -> bool:
    """Return whether every member's prediction of x, (B, …), changes if some tensors change; they stay as they are.

    Only the largest tensors, with nine tenths of all numbers, are changed: that a prediction depends on a few of the
    rest, such as a learned scale, does not make an average of the others count.
    """
    training, total = method.training, sum(value.numel() for value in weights)
    largest, moved = [], 0
    for value in sorted(weights, key=Tensor.numel, reverse=True):
        if moved < LARGE * total:
            largest.append(value)
            moved += value.numel()
    weights, kept = largest, [value.clone() for value in largest]
    generator = torch.Generator().manual_seed(0)
    method.eval()
    try:
        before = method.predict(x)
        for value in weights:
            noise = torch.randn(value.shape, generator=generator).to(value)
            value.add_(noise * (0.1 * value.abs().mean() + 0.01))
        changed = before != method.predict(x)
        return bool(changed.flatten(1).any(1).all())
    finally:
        copy_each(weights, kept)
        method.train(training)


def flatten(parameters: Iterable[Tensor]) -> Tensor:
    """Join tensors into one vector, (P,)."""
    return torch.cat([p.detach().flatten() for p in parameters])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split a vector, (P,), into tensors with the shapes of `like`: the inverse of `flatten`."""
    pieces = torch.split(vector, [p.numel() for p in like])
    return [piece.view(p.shape) for piece, p in zip(pieces, like, strict=True)]


def copy_each(targets: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Copy each value into its target."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
