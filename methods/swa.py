"""Stochastic weight averaging, of any method."""

from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field

from methods.base import MakeMethod, Method
from methods.recipe import Position, Recipe, start_at
from methods.sgd import SGD
from methods.streams import MakeNet
from methods.wrapper import Wrapper, methods_within


class SWA(Wrapper):
    """Average the weights at the ends of the last epochs, at a high learning rate, into one network.

    Of a method with several members, each member's weights are averaged over time; then the method makes its
    prediction of the averages. Running statistics are re-estimated at the end with one pass over the training
    data.

    References:
        Izmailov et al., Averaging weights leads to wider optima, UAI 2018, Algorithm 1 and its code's schedule;
        von Oswald et al., ICLR 2021, Algorithm 2 and appendix A (start at 160 of 200 epochs, rate 0.05).
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
        of: MakeMethod = SGD,
        start: Position = 0.8,
        ratio: Annotated[float, Field(gt=0)] | None = 0.5,
    ) -> None:
        """Average from epoch `start` on.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            start: an epoch, or a fraction of all epochs; the state at the end of each epoch from there on
                counts equally.
            ratio: the rate while averaging, relative to the recipe's; reached linearly between 0.5 and 0.9
                of `start`. None: the rate of the method that is averaged.
        """
        super().__init__(make_net, recipe, of)
        inner = type(self.inner).__name__
        if any(method.collected for method in methods_within(self.inner)):
            raise ValueError(
                f"SWA cannot be made of {inner}, which keeps copies of its own: averaging them means nothing"
            )
        self.start_epoch = start_at(start, self.epochs)
        for method in methods_within(self.inner):
            if self.start_epoch < method.start_epoch < self.epochs:
                raise ValueError(
                    f"averaging starts in epoch {self.start_epoch}, before {type(method).__name__} itself starts "
                    f"in epoch {method.start_epoch}: its members have no values yet"
                )
        self.ratio = ratio
        self.average = self.copy_inner(stale=True)

    def lr(self, epoch: float) -> float:
        """Hold the recipe's rate, then lower it linearly to `ratio` of it, and hold that."""
        if self.ratio is None:
            return self.inner.lr(epoch)
        start, end = 0.5 * self.start_epoch, 0.9 * self.start_epoch
        progress = 1.0 if end <= start else min(max((int(epoch) - start) / (end - start), 0.0), 1.0)
        return self.recipe.lr * (1.0 + (self.ratio - 1.0) * progress)

    def end_epoch(self, epoch: int) -> None:
        """Add this epoch's weights to the average."""
        super().end_epoch(epoch)
        if self.begun:
            self.blend(self.average, 1.0 / (epoch - self.start_epoch + 1))

    def predictors(self) -> list[Method]:
        """Predict with the average; before averaging started, with the inner method."""
        return [self.average if self.begun else self.inner]
