"""MIMO: several independent subnetworks in one network of several inputs and outputs."""

from typing import Annotated, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods import About, MakeNet, Method, Recipe, Weights


class MIMO(Method):
    """Train one network on M images at once, with M heads; predict by showing it one image M times.

    References:
        Havasi et al., Training independent subnetworks for robust prediction, ICLR 2021.
    """

    about = About("implicit ensembles", "Havasi et al. 2021")
    space: ClassVar[dict[str, BaseDistribution]] = {"M": IntDistribution(2, 4)}

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, M: Annotated[int, Field(ge=1)] = 2) -> None:
        """Give the network M inputs, stacked on channels, and M heads."""
        data = make_net.data
        if data.in_channels is None:
            raise ValueError("MIMO stacks images, and text has no channels")
        super().__init__(make_net.replace(in_channels=M * data.in_channels, classes=M * data.classes), recipe)
        self.M, self.C = M, data.classes

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's stream of partners."""
        super().begin_epoch(epoch)
        self.orders = self.generator("partners")

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the sum of the heads' losses, each on its own image."""
        orders = [torch.randperm(len(x), generator=self.orders).to(x.device) for _ in range(self.M)]
        logits = self.heads(torch.cat([x[order] for order in orders], dim=1), weights)
        losses = [self.recipe.criterion(own, y[order]) for own, order in zip(logits, orders, strict=True)]
        return torch.stack(losses).sum()

    def heads(self, x: Tensor, weights: Weights | None) -> Tensor:
        """Give the logits of every head, (M, B, C), for stacked images."""
        return self(x, weights).unflatten(1, (self.M, self.C)).transpose(0, 1)

    def predict_with(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the logits of every head, (M, B, C), which sees the same image."""
        return self.heads(x.repeat(1, self.M, 1, 1), weights)
