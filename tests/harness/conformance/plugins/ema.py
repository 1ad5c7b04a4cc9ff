"""Predict with an exponential moving average of the weights."""

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor

from methods import About, Batch, MakeNet, Method, NamedBuffers, Recipe, reestimate


class EMA(Method):
    """Predict with an exponential moving average of the weights.

    References:
        Polyak & Juditsky 1992; Tarvainen & Valpola, Mean teachers are better role models, NeurIPS 2017.
    """

    about = About("weight averaging", "Tarvainen & Valpola 2017", passes="1 if statistics == 'reestimate' else 0")
    space: ClassVar[dict[str, BaseDistribution]] = {"decay": FloatDistribution(0.9, 0.999)}
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.95,
        statistics: Literal["average", "reestimate"] = "reestimate",
    ) -> None:
        """Average with `decay`; BatchNorm's statistics are averaged too, or re-estimated after training."""
        super().__init__(make_net, recipe)
        self.decay, self.statistics = decay, statistics
        self.average = NamedBuffers(self.own_weights().items())

    def update(self, batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> Tensor:
        """Take one step; the average follows."""
        loss = super().update(batches, optimizer)
        with torch.no_grad():
            for name, mean in self.average.named().items():
                new = self.own_weights()[name]
                mean.copy_(torch.lerp(new, mean, self.decay) if mean.is_floating_point() else new)
        return loss

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the average."""
        return [self.average.named()]

    def weights_to_average(self) -> list[Tensor]:
        """Give the averaged weights, from which it predicts."""
        return [value for name, value in self.average.named().items() if name in dict(self.net.named_parameters())]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate BatchNorm's statistics of the average."""
        if self.statistics == "reestimate":
            reestimate(self, batches, self.average.named())
        else:
            super().prepare(batches)
