"""Rank-1 factors of weight matrices as late-phase weights."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from methods.core.declarations import About, Sharing, Trunk
from methods.core.fused_members import LayerForward, Scaled
from methods.core.late_phase import LATE_PHASE, LATE_SHARING, LatePhase
from methods.core.layers import Weighted, weight_matrices
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Recipe

INITIAL = (0.99, 1.01)
"""Range of the factors' initial values (appendix A, "LSTM")."""


TRUNK_VERSION = 1
"""The version of `Rank1`, which trains the trunk that both methods share."""
RANK1_SHARING = LATE_SHARING._replace(
    trunk=lambda method: Trunk(f"rank1 {TRUNK_VERSION} of {', '.join(method.matrices)}", method.start_epoch),
    state=("net", "factors"),
)


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
    """Rank-1 factors of weight matrices (and the last layer) as late-phase weights.

    They are trained from the first epoch on, as one pair of vectors a matrix until T0. BatchNorm stays shared, its
    statistics too.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2 and appendix A; section 3.4
        for the recurrent matrix of an LSTM.
    """

    about: ClassVar[About] = LATE_PHASE
    sharing: ClassVar[Sharing] = RANK1_SHARING
    fusible: ClassVar[bool] = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        matrices: Literal["all", "recurrent"] | None = None,
        last_layer: bool | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Give matrices factors.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            matrices: "all" those of linear layers, convolutions and recurrent layers, or the "recurrent" ones, from
                state to state, alone; None: in a network with recurrent layers "recurrent", as in the paper's
                experiments, else "all".
            last_layer: take the last layer itself as late-phase weights, without factors; None: unless `matrices` is
                "recurrent" (the paper does so "in classification experiments").
            hyperparameters: of `LatePhase`.

        Raises:
            ValueError: for recurrent matrices of a network that has none.
        """
        # Deviation: the paper says nothing of decay on the factors and trains them without any; as in BatchEnsemble
        # they have none here, whatever the recipe.
        super().__init__(make_net, recipe, **hyperparameters)
        recurrent = weight_matrices(self.net, recurrent=True)
        if matrices == "recurrent" and not recurrent:
            raise ValueError("matrices=recurrent needs an architecture with recurrent layers")
        alone = matrices == "recurrent" or (matrices is None and bool(recurrent))
        last = [name_of_last_layer(self.net)] if (not alone if last_layer is None else last_layer) else []
        found = recurrent if alone else weight_matrices(self.net)
        self.matrices = [name for name in found if name.rpartition(".")[0] not in last]
        with seeded(self.generator("rank-1 factors")):
            factors = [RankOne(self.net.get_parameter(name)) for name in self.matrices]
        self.replicate(last, factors)

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Multiply every matrix by its factors."""
        return {name: factor(self.net.get_parameter(name)) for name, factor in zip(self.matrices, factors, strict=True)}

    def make_acts(self, turns: Sequence[int]) -> dict[nn.Module, LayerForward]:
        """Scale what goes into the layers of the matrices, and what comes out."""
        layers = [cast(Weighted, self.net.get_submodule(name.rpartition(".")[0])) for name in self.matrices]
        factors = zip(*(self.own_parts(k)[len(self.names) :] for k in turns), strict=True)
        scaled: dict[nn.Module, LayerForward] = {
            layer: Scaled(layer, own) for layer, own in zip(layers, factors, strict=True)
        }
        return {**super().make_acts(turns), **scaled}
