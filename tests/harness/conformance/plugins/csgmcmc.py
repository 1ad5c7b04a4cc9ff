"""Cyclical stochastic-gradient MCMC."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar

import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods import About, Batch, MakeNet, Method, NamedBuffers, Recipe


class CSGMCMC(Method):
    """Restart a cosine rate M times; in the last part of each cycle add noise and keep a sample an epoch.

    References:
        Zhang et al., Cyclical stochastic gradient MCMC for Bayesian deep learning, ICLR 2020.
    """

    about = About("sampling", "Zhang et al. 2020", prediction="M * samples")
    space: ClassVar[dict[str, BaseDistribution]] = {
        "M": IntDistribution(1, 4),
        "temperature": FloatDistribution(1e-4, 1.0, log=True),
    }

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        M: Annotated[int, Field(ge=1)] = 2,
        samples: Annotated[int, Field(ge=1)] = 2,
        temperature: Annotated[float, Field(ge=0)] = 0.01,
    ) -> None:
        """Keep `samples` states at the ends of the last epochs of each of `M` cycles."""
        super().__init__(make_net, recipe)
        if self.epochs % M or self.epochs // M <= samples:
            raise ValueError(f"{M} cycles of {samples} samples do not fit into {self.epochs} epochs")
        self.M, self.samples, self.temperature = M, samples, temperature
        self.cycle, self.examples = self.epochs // M, make_net.data.examples
        self.kept = nn.ModuleList(NamedBuffers(self.own_weights().items()) for _ in range(M * samples))

    def samples_after(self, epochs: int) -> int:
        """Count the samples that are kept after some epochs."""
        cycles, rest = divmod(epochs, self.cycle)
        return cycles * self.samples + max(0, rest - self.cycle + self.samples)

    def lr(self, epoch: float) -> float:
        """Give the rate: half a cosine a cycle, step by step."""
        return super().lr(0) / 2 * (1 + math.cos(math.pi * (epoch % self.cycle) / self.cycle))

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's stream of noise."""
        super().begin_epoch(epoch)
        self.noise = self.generator("noise")

    def update(self, batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> Tensor:
        """Take one step of SGHMC: the noise goes into the gradient, and so into the momentum."""
        ((x, y),) = batches
        optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        sampling = self.epoch % self.cycle >= self.cycle - self.samples
        for group in optimizer.param_groups if sampling else []:
            friction = 1 - group.get("momentum", 0.0)
            size = math.sqrt(2 * friction * self.temperature / (self.examples * group["lr"]))
            for p in group["params"]:
                p.grad += size * torch.randn(p.shape, generator=self.noise).to(p)
        optimizer.step()
        return loss.detach()

    def end_epoch(self, epoch: int) -> None:
        """Keep a sample."""
        super().end_epoch(epoch)
        if (k := self.samples_after(epoch + 1)) > self.samples_after(epoch):
            own = self.own_weights()
            with torch.no_grad():
                for name, value in self.kept[k - 1].named().items():
                    value.copy_(own[name])

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the samples kept so far; before the first, the network."""
        return [kept.named() for kept in self.kept[: self.samples_after(self.epoch + 1)]] or [self.own_weights()]

    def weights_to_average(self) -> list[Tensor]:
        """Refuse to be averaged: the samples are the result."""
        return []
