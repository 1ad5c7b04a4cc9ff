"""Sharpness-aware minimisation."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from methods import About, Batch, MakeNet, Method, Recipe


class SAM(Method):
    """Step with the gradient at the worst of the nearby weights.

    References:
        Foret et al., Sharpness-aware minimization for efficiently improving generalization, ICLR 2021, Equation 2.
    """

    about = About("flat minima", "Foret et al. 2021", training="2")

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, rho: Annotated[float, Field(ge=0)] = 0.05) -> None:
        """Look for them at a distance of `rho`."""
        super().__init__(make_net, recipe)
        self.rho = rho

    def update(self, batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> Tensor:
        """Take one step; the second pass leaves the running statistics alone."""
        ((x, y),) = batches
        optimizer.zero_grad()
        loss, params = self.loss(x, y), dict(self.net.named_parameters())
        gradients = torch.autograd.grad(loss, list(params.values()))
        length = torch.stack([g.norm() for g in gradients]).norm()
        moved = {n: p + self.rho * g / length for (n, p), g in zip(params.items(), gradients, strict=True)}
        self.loss(x, y, moved | {n: b.clone() for n, b in self.net.named_buffers()}).backward()
        optimizer.step()
        return loss.detach()
