"""Snapshot ensembles, of any method."""

import math
from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import nn

from methods.base import MakeMethod, Method
from methods.recipe import Recipe
from methods.sgd import SGD
from methods.streams import MakeNet
from methods.wrapper import Wrapper


class Snapshot(Wrapper):
    """Restart a cosine learning rate M times and keep the state at the end of every cycle as a member.

    References:
        Huang et al., Snapshot ensembles: train 1, get M for free, ICLR 2017, Equation 2.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        "M": IntDistribution(2, 10),
        "ratio": FloatDistribution(0.25, 4.0, log=True),
    }

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        M: Annotated[int, Field(ge=1)] = 5,
        ratio: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        """Train for `M` cycles of equal length (to a whole epoch).

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method of which snapshots are taken.
            M: the number of cycles.
            ratio: the rate at each restart, relative to the recipe's.

        Raises:
            ValueError: when a cycle would be shorter than an epoch.
        """
        super().__init__(make_net, recipe, of)
        if self.epochs < M:
            raise ValueError(f"M = {M} cycles do not fit into {self.epochs} epochs")
        self.ends = [round((i + 1) * self.epochs / M) for i in range(M)]
        self.start_epoch = self.ends[0] - 1
        self.ratio = ratio
        self.snapshots = nn.ModuleList(self.copy_inner() for _ in range(M))

    def lr(self, epoch: float) -> float:
        """Fall along half a cosine in every cycle, minibatch by minibatch (Equation 2)."""
        cycle = min(sum(epoch >= end for end in self.ends), len(self.ends) - 1)
        start = self.ends[cycle - 1] if cycle else 0
        progress = (epoch - start) / (self.ends[cycle] - start)
        return self.ratio * self.recipe.lr / 2 * (math.cos(math.pi * progress) + 1)

    def end_epoch(self, epoch: int) -> None:
        """Keep the state at the end of a cycle."""
        super().end_epoch(epoch)
        if epoch + 1 in self.ends:
            self.snapshots[self.ends.index(epoch + 1)].load_state_dict(self.inner.state_dict())

    def predictors(self) -> list[Method]:
        """Predict with the snapshots taken so far; before the first, with the inner method."""
        taken = [copy for copy, end in zip(self.snapshots, self.ends, strict=True) if self.epoch + 1 >= end]
        return taken or [self.inner]  # type: ignore[return-value]
