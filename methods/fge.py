"""Fast geometric ensembles of any method."""

from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing
from methods.core.method import MakeMethod
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe, start_epoch_at
from methods.core.wrapper import SHARED_UNTIL_START, Collector
from methods.sgd import SGD


class FGE(Collector):
    """Cycle the learning rate quickly late in training, and keep a member at each minimum of the rate.

    Members keep the running statistics that they were trained with.

    References:
        Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, NeurIPS 2018, section 5;
        the rates and the cycle are those of its code for wide ResNets (0.05 and 0.01 of 0.1, from epoch 160 of 200).
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "start": FloatDistribution(0.5, 0.95),
        "cycle": IntDistribution(2, 6, step=2),
        "ratio": FloatDistribution(0.2, 1.0, log=True),
        "low": FloatDistribution(0.001, 0.2, log=True),
    }
    about: ClassVar[About] = About(
        "snapshots", "Garipov et al. 2018", prediction="((1 - start) * epochs + cycle / 2 + 0.5) // cycle"
    )
    sharing: ClassVar[Sharing] = SHARED_UNTIL_START
    version: ClassVar[int] = 3
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        start: Position = 0.8,
        cycle: Annotated[int, Field(ge=2, multiple_of=2)] = 2,
        ratio: Annotated[float, Field(gt=0)] = 0.5,
        low: Annotated[float, Field(gt=0)] = 0.1,
    ) -> None:
        """Collect a member in the middle of every cycle from epoch `start` on.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method that is trained; until `start` it keeps its own learning rate.
            start: an epoch, or a fraction of all epochs.
            cycle: the length of a cycle in epochs, an even number.
            ratio: the learning rate at the ends of a cycle, relative to the recipe's highest.
            low: the learning rate in the middle of a cycle, relative to the recipe's highest.

        Raises:
            ValueError: if training ends before the middle of the first cycle, or if `low` is above `ratio`.
        """
        super().__init__(make_net, recipe, of)
        self.start_epoch = start_epoch_at(start, self.epochs)
        ends = range(self.start_epoch + cycle // 2, self.epochs + 1, cycle)
        if not ends:
            raise ValueError(f"training ends before the middle of a cycle of {cycle} epochs from {self.start_epoch} on")
        if low > ratio:
            raise ValueError(f"low={low}, the lowest rate of a cycle, is above ratio={ratio}, its highest")
        self.set_cycles(ends, first_epoch=self.start_epoch)
        self.cycle, self.ratio, self.low = cycle, ratio, low
        self.highest_rate = self.recipe.highest_rate

    def lr(self, epoch: float) -> float:
        """Return a rate that falls linearly to the middle of each cycle and rises again, minibatch by minibatch."""
        if self.follows_inner(epoch):
            return self.inner.lr(epoch)
        t = (epoch - self.start_epoch) % self.cycle / self.cycle
        own = self.highest_rate * (self.low + (self.ratio - self.low) * abs(1 - 2 * t))
        return self.recipe.warmup_factor(epoch) * own

    def follows_inner(self, epoch: float) -> bool:
        """Return whether the rate at a position in training is that of the inner method."""
        return epoch < self.start_epoch
