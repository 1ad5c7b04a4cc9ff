"""Snapshot ensembles of any method."""

import math
from typing import Annotated, ClassVar, Literal

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing
from methods.core.method import MakeMethod
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe, start_epoch_at
from methods.core.wrapper import SHARED_UNTIL_START, Collector, equal_cycle_ends
from methods.sgd import SGD


class Snapshot(Collector):
    """Restart a cosine learning rate M times and keep the state at the end of every cycle as a member.

    References:
        Huang et al., Snapshot ensembles: train 1, get M for free, ICLR 2017, Equation 2. The authors of the
        hypernetwork ensembles take equally spaced snapshots of an averaged run, without cycles (section 3, appendix B:
        ten from epoch 164 of 200 to the last): `snapshot(swa, M=10, start=0.8, rate=inner)`.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "M": IntDistribution(2, 10),
        "ratio": FloatDistribution(0.25, 4.0, log=True),
    }
    about: ClassVar[About] = About("snapshots", "Huang et al. 2017", prediction="M")
    sharing: ClassVar[Sharing] = SHARED_UNTIL_START
    version: ClassVar[int] = 3
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        M: Annotated[int, Field(ge=1)] = 5,
        ends: tuple[Annotated[int, Field(ge=1)], ...] | None = None,
        ratio: Annotated[float, Field(gt=0)] = 1.0,
        start: Position = 0.0,
        rate: Literal["cosine", "inner"] = "cosine",
    ) -> None:
        """Divide training into `M` cycles of equal length, to a whole epoch.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method of which snapshots are taken.
            M: the number of cycles.
            ends: for each cycle, after how many epochs it ends. None: all cycles have the same length.
            ratio: the learning rate at each restart, relative to the recipe's highest.
            start: the epoch in which the first cycle begins, or a fraction of all epochs. Until then the rate is that
                of the inner method.
            rate: "cosine" restarts in every cycle. "inner" uses the inner method's rate throughout.

        Raises:
            ValueError: if a cycle would be shorter than an epoch; for a `ratio` without restarts; for `ends` that do
                not rise to the last epoch, or are not M.
        """
        super().__init__(make_net, recipe, of)
        if rate == "inner" and ratio != 1.0:
            raise ValueError(f"ratio={ratio} is the rate at a restart, and rate=inner has no restarts")
        first = start_epoch_at(start, self.epochs)
        if ends is None:
            ends = tuple(equal_cycle_ends(M, f"M = {M} cycles", first=first, epochs=self.epochs))
        if len(ends) != M or list(ends) != sorted({*ends}) or not first < ends[0] or ends[-1] != self.epochs:
            raise ValueError(f"ends={ends} must be M = {M} rising numbers of epochs after {first}, up to {self.epochs}")
        self.set_cycles(ends, first_epoch=first)
        self.start_epoch = self.cycle_ends[0] - 1
        self.ratio, self.rate = ratio, rate
        self.highest_rate = self.recipe.highest_rate

    def lr(self, epoch: float) -> float:
        """Return a rate that falls along half a cosine in every cycle, minibatch by minibatch (Equation 2).

        The recipe's warm-up is kept.
        """
        if self.follows_inner(epoch):
            return self.inner.lr(epoch)
        cosine = math.cos(math.pi * self.cycle_progress(epoch))
        return self.recipe.warmup_factor(epoch) * (self.ratio * self.highest_rate / 2 * (cosine + 1))

    def follows_inner(self, epoch: float) -> bool:
        """Return whether the rate at a position in training is that of the inner method."""
        return self.rate == "inner" or epoch < self.first_epoch
