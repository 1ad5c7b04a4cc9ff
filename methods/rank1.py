"""Rank-1 factors of weight matrices, as late-phase weights and alone."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from optuna.distributions import BaseDistribution
from torch import Tensor, nn

from methods.base import About
from methods.late_layers import LATE_PHASE
from methods.late_phase import LatePhase
from methods.layers import last_layer as name_of_last_layer
from methods.layers import weight_matrices
from methods.recipe import Recipe
from methods.streams import MakeNet, seeded

INITIAL = (0.99, 1.01)
"""Range of the factors' initial values (appendix A, "LSTM")."""


class RankOne(nn.Module):
    """Vectors u and v that multiply a weight matrix or kernel elementwise: W = θ ∘ u vᵀ."""

    def __init__(self, weight: Tensor) -> None:
        """Draw both from torch's global random numbers, near one.

        Args:
            weight: θ, (out, in, …).
        """
        super().__init__()
        self.u = nn.Parameter(torch.empty(weight.shape[0], device=weight.device).uniform_(*INITIAL))
        self.v = nn.Parameter(torch.empty(weight.shape[1], device=weight.device).uniform_(*INITIAL))
        self.rest = (1,) * (weight.ndim - 2)

    def forward(self, weight: Tensor) -> Tensor:
        """Give θ ∘ u vᵀ, of the shape of θ."""
        return weight * self.u.reshape(-1, 1, *self.rest) * self.v.reshape(-1, *self.rest)


class LatePhaseRank1(LatePhase):
    """Rank-1 factors of every weight matrix (and the last layer) as late-phase weights.

    They are trained from the first epoch on, as one pair of vectors a matrix until T0. Matrices are those of linear
    layers, convolutions and recurrent layers (LSTM). BatchNorm stays shared, its statistics too.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2 and appendix A.
    """

    about: ClassVar[About] = LATE_PHASE

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, last_layer: bool = True, **hyperparameters: Any) -> None:
        """Take factors of all matrices; `last_layer`: of the last one, take the layer itself instead.

        The other arguments are those of `LatePhase`.
        """
        # Deviation: the paper says nothing of decay on the factors and trains them without any; as in BatchEnsemble
        # they have none here, whatever the recipe.
        super().__init__(make_net, recipe, **hyperparameters)
        last = [name_of_last_layer(self.net)] if last_layer else []
        self.matrices = [name for name in weight_matrices(self.net) if name.rpartition(".")[0] not in last]
        with seeded(self.generator("rank-1 factors")):
            factors = [RankOne(self.net.get_parameter(name)) for name in self.matrices]
        self.replicate(last, factors)

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Multiply every matrix by its factors."""
        return {name: factor(self.net.get_parameter(name)) for name, factor in zip(self.matrices, factors, strict=True)}


class Rank1(LatePhaseRank1):
    """Plain training with one pair of rank-1 factors a weight matrix: the control "Base + Rank1".

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, Table 6.
    """

    about: ClassVar[About] = About("plain training", "von Oswald et al. 2021")
    space: ClassVar[dict[str, BaseDistribution]] = {}

    def __init__(self, make_net: MakeNet, recipe: Recipe) -> None:
        """Give the last layer factors too: no part of the network is late."""
        super().__init__(make_net, recipe, last_layer=False, start=None)
