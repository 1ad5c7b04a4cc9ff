"""Learned subspaces: lines in weight space whose every point is an accurate network."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from methods.base import Batch, Method, Weights
from methods.batch_norm import reestimate
from methods.named_buffers import NamedBuffers
from methods.recipe import Recipe
from methods.streams import MakeNet


class Line(Method):
    """Train the line between two networks: each minibatch is seen by a random point of it.

    The two ends are drawn independently. A penalty β·cos² keeps them apart. BatchNorm's scale and shift lie on
    the line too; its running statistics are re-estimated at every point that predicts.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, Algorithm 1, Equations 2–5, appendix D.3.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {"beta": FloatDistribution(0.0, 4.0)}

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        beta: Annotated[float, Field(ge=0)] = 1.0,
        prediction: Literal["midpoint", "pair"] = "midpoint",
        alpha: float = 0.0,
    ) -> None:
        """Draw the two ends.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            beta: strength of the penalty on the squared cosine between the ends (Equation 5).
            prediction: predict with the "midpoint" alone, or with the "pair" of points alpha and 1 − alpha.
            alpha: the pair's place on the line; 0 are its ends (Figure 5).

        Raises:
            ValueError: for a place without a pair.
        """
        if prediction == "midpoint" and alpha:
            raise ValueError(f"alpha={alpha} is the place of a pair; it needs prediction=pair")
        super().__init__(make_net, recipe)
        self.start_epoch = 0
        self.end = make_net()
        self.beta = beta
        self.alphas = self.generator("alpha")
        self.points = [0.5] if prediction == "midpoint" else [alpha, 1.0 - alpha]
        self.statistics = nn.ModuleList(NamedBuffers(self.net.named_buffers()) for _ in range(2))
        self.penalised = [
            f"{name}.{key}" if name else key
            for name, layer in self.net.named_modules()
            if not isinstance(layer, _BatchNorm)
            for key, _ in layer.named_parameters(recurse=False)
        ]

    def at(self, alpha: float | Tensor) -> dict[str, Tensor]:
        """Give the parameters at a point: (1 − α)ω1 + αω2, ω1 the network's own and ω2 the other end's."""
        other = dict(self.end.named_parameters())
        return {name: (1 - alpha) * own + alpha * other[name] for name, own in self.net.named_parameters()}

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's stream of points."""
        super().begin_epoch(epoch)
        self.alphas = self.generator("alpha")

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the loss at a random point (or at `weights`) plus the penalty."""
        if weights is None:
            weights = self.at(torch.rand((), generator=self.alphas))
        loss = super().loss(x, y, weights)
        return loss + self.beta * self.squared_cosine() if self.beta else loss

    def squared_cosine(self) -> Tensor:
        """Give cos² of the angle between the ends, over all weights but BatchNorm's as one vector (Equation 5)."""
        own, other = dict(self.net.named_parameters()), dict(self.end.named_parameters())
        first = torch.cat([own[name].flatten() for name in self.penalised])
        second = torch.cat([other[name].flatten() for name in self.penalised])
        return first.dot(second).square() / (first.dot(first) * second.dot(second))

    def members(self) -> list[dict[str, Tensor]]:
        """Give the networks at the points of prediction, each with its own statistics."""
        pairs = zip(self.points, self.statistics, strict=False)  # a midpoint uses the first set
        return [{**self.at(alpha), **statistics.named()} for alpha, statistics in pairs]  # type: ignore[operator]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate the running statistics at every point that predicts (appendix D.3)."""
        for weights in self.members():
            reestimate(self, batches, weights)
