"""The average of states that are visited late in training, and points around it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.core.declarations import Anchor, Batch
from methods.core.layers import NamedBuffers
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe, start_at
from methods.core.wrapper import Collector, equally_spaced, methods_within


class Averaging(Collector):
    """Average the weights of states that a high or cyclic rate visits late in training.

    A subclass may predict with other points of the space that these states span (see `visit`). Of a method with
    several members, each member's weights are averaged over time; then the method makes its prediction of the
    averages.

    Attributes:
        average: holds the mean of the collected states' weights.
        statistics: the buffers of each point that `visit` visits, by name.
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
    ) -> None:
        """Collect from epoch `start` on.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            start: an epoch, or a fraction of all epochs.
            ratio: the rate while averaging, relative to the recipe's; reached linearly between 0.5 and 0.9
                of `start`. None: the rate of the method that is averaged.
            rate: "high" holds that rate from `start` on; "cyclic" lets it fall linearly, minibatch by minibatch, to
                `low` before each collected state, and start again.
            low: the least rate of a cycle, relative to the recipe's; None: 0.1, our choice, as in fast geometric
                ensembles of wide ResNets.
            checkpoints: how many states are collected, equally spaced (to a whole epoch), the last one at the end
                of training; None for the state at the end of each epoch. They count equally.

        Raises:
            ValueError: for an inner method whose collected copies or members without values would be averaged; for
                more checkpoints than epochs; for a cycle without a `ratio`, or with one below `low`.
        """
        super().__init__(make_net, recipe, of)
        me, inner = type(self).__name__, type(self.inner).__name__
        if any(method.collected for method in methods_within(self.inner)):
            raise ValueError(
                f"{me} cannot be made of {inner}, which keeps copies of its own: averaging them means nothing"
            )
        self.start_epoch = start_at(start, self.epochs)
        for method in methods_within(self.inner):
            if self.start_epoch < method.start_epoch < self.epochs:
                raise ValueError(
                    f"averaging starts in epoch {self.start_epoch}, before {type(method).__name__} itself starts "
                    f"in epoch {method.start_epoch}: its members have no values yet"
                )
        if rate == "high" and low is not None:
            raise ValueError(f"low={low} is the least rate of a cycle; it needs rate=cyclic")
        self.ratio, self.rate, self.low = ratio, rate, 0.1 if low is None else low
        if rate == "cyclic" and (ratio is None or self.low > ratio):
            raise ValueError(f"rate=cyclic falls from ratio to low, but ratio={ratio} and low={self.low}")
        count = self.epochs - self.start_epoch if checkpoints is None else checkpoints
        self.collect_at(
            equally_spaced(count, f"{count} checkpoints", first=self.start_epoch, epochs=self.epochs),
            first=self.start_epoch,
            keep=False,
        )
        self.average = self.copy_inner(stale=True)
        self.statistics = nn.ModuleList()

    def visit_later(self, points: int) -> None:
        """Predict with so many points, and not with the average; for `__init__` only."""
        self.statistics.extend(NamedBuffers(self.average.named_buffers()) for _ in range(points))

    def lr(self, epoch: float) -> float:
        """Hold the recipe's rate, lower it linearly to `ratio` of it, and hold that or cycle from there."""
        if self.ratio is None:
            return self.inner.lr(epoch)
        if self.rate == "cyclic" and epoch >= self.start_epoch:
            # Deviation: a cycle begins at its greatest rate; in the paper (section 3.1) already its first minibatch
            # is a step lower, and its last one has the least rate itself.
            return self.recipe.lr * (self.ratio + (self.low - self.ratio) * self.progress(epoch))
        start, end = 0.5 * self.start_epoch, 0.9 * self.start_epoch
        progress = 1.0 if end <= start else min(max((int(epoch) - start) / (end - start), 0.0), 1.0)
        return self.recipe.lr * (1.0 + (self.ratio - 1.0) * progress)

    def collect(self, i: int) -> None:
        """Add the state at the end of cycle i to the average."""
        super().collect(i)
        self.blend(self.average, 1.0 / (i + 1))
        self.follow(self.average)

    @property
    def ready(self) -> bool:
        """Whether enough is collected to predict with."""
        return self.taken > 0

    def predictors(self) -> Iterable[Method]:
        """Predict with the average, or with the points if there are any; until `ready` with the inner method."""
        if not self.ready:
            return [self.inner]
        return self.visit(range(len(self.statistics))) if self.statistics else [self.average]

    # --- points of weight space that are not kept ----------------------------------------------------------

    def point(self, i: int, mean: Tensor) -> Tensor:
        """Give all weights of point i (counted from 0) as one vector, (P,), from the average's, (P,)."""
        raise NotImplementedError

    @torch.no_grad()
    def visit(self, points: Iterable[int]) -> Iterator[Method]:
        """Put the average at these points, one at a time, each with its own buffers; then put it back.

        What is written to the buffers there (by `prepare`) is all that is kept of a point.
        """
        parameters, buffers = list(self.average.parameters()), list(self.average.buffers())
        mean, untouched = flat(parameters), [buffer.clone() for buffer in buffers]
        try:
            for i in points:
                kept = list(self.statistics[i].buffers())
                assign(parameters, pieces(self.point(i, mean), parameters))
                assign(buffers, kept)
                yield self.average
                assign(kept, buffers)
        finally:
            assign(parameters, pieces(mean, parameters))
            assign(buffers, untouched)

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the members of every predictor; those of a point are made when they are asked for."""
        if self.ready and self.statistics:
            return (weights for i in range(len(self.statistics)) for weights in self.members_at(i))
        return super().members()

    def members_at(self, i: int) -> list[dict[str, Tensor]]:
        """Give the members at point i, in tensors of their own."""
        return [
            {name: value.clone() for name, value in weights.items()}
            for method in self.visit([i])
            for weights in method.members()
        ]

    def anchors(self) -> Iterable[Anchor]:
        """Give the members where they are points that are not kept, else the average's anchors."""
        at_points = self.ready and len(self.statistics)
        return (Anchor(weights) for weights in self.members()) if at_points else super().anchors()

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Prepare every predictor; each point starts with the buffers of the average."""
        for statistics in self.statistics:
            assign(statistics.buffers(), self.average.buffers())
        super().prepare(batches)


def flat(parameters: Iterable[Tensor]) -> Tensor:
    """Join tensors into one vector, (P,)."""
    return torch.cat([p.detach().flatten() for p in parameters])


def pieces(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector (P,) into tensors of the shapes of others: the inverse of `flat`."""
    cut = torch.split(vector, [p.numel() for p in like])
    return [piece.view(p.shape) for piece, p in zip(cut, like, strict=True)]


def assign(targets: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Copy values into tensors, one by one."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
