"""Rank-1 factors of weight matrices as late-phase weights."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from methods.core.declarations import About, Sharing, Trunk
from methods.core.fused_members import LayerForward, Rank1ScaledLayer
from methods.core.late_phase import LATE_PHASE_ABOUT, LATE_PHASE_SHARING, LatePhase
from methods.core.layers import Weighted, check_untied, weight_matrices
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Recipe

INITIAL_RANGE = (0.99, 1.01)
"""The range of the factors' initial values (appendix A, "LSTM")."""
TRUNK_VERSION = 1
"""The version of `Rank1`, which both methods name in their common trunk."""
RANK1_SHARING = LATE_PHASE_SHARING._replace(
    trunk=lambda method: Trunk(f"rank1 {TRUNK_VERSION} of {', '.join(method.matrices)}", method.start_epoch),
    state=("net", "factors"),
)


class RankOne(nn.Module):
    """Multiply a weight matrix or kernel elementwise by the product of two vectors: W = θ ∘ u vᵀ."""

    def __init__(self, weight: Tensor) -> None:
        """Draw u and v near 1 from torch's global generator.

        Args:
            weight: θ, (out, in, …).
        """
        super().__init__()
        self.u = nn.Parameter(torch.empty(weight.shape[0], device=weight.device).uniform_(*INITIAL_RANGE))
        self.v = nn.Parameter(torch.empty(weight.shape[1], device=weight.device).uniform_(*INITIAL_RANGE))
        self.rest = (1,) * (weight.ndim - 2)

    def forward(self, weight: Tensor) -> Tensor:
        """Return θ ∘ u vᵀ, with the shape of θ."""
        return weight * self.u.reshape(-1, 1, *self.rest) * self.v.reshape(-1, *self.rest)


class LatePhaseRank1(LatePhase):
    """Use rank-1 factors of weight matrices, and the last layer, as late-phase weights.

    Factors are trained from the first epoch on: until T0, one pair of vectors per matrix. Members share BatchNorm with
    its statistics.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2 and appendix A; section 3.4
        for the recurrent matrix of an LSTM.
    """

    about: ClassVar[About] = LATE_PHASE_ABOUT
    sharing: ClassVar[Sharing] = RANK1_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 3
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        matrices: Literal["all", "recurrent"] | None = None,
        last_layer: bool | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Set which matrices have factors.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            matrices: "all" matrices of linear, convolutional and recurrent layers, or only the "recurrent" matrices,
                which map a state to the next state. None: "recurrent" in a network with recurrent layers, as in the
                paper's experiments, else "all".
            last_layer: whether the last layer itself is a late-phase weight, without factors. None: unless factors are
                on recurrent matrices only (the paper does so "in classification experiments").
            hyperparameters: those of `LatePhase`.

        Raises:
            ValueError: for recurrent matrices of a network that has none.
        """
        # Deviation: the paper does not say whether the factors decay, and its runs with factors have no decay. As in
        # BatchEnsemble, factors do not decay here, whatever the recipe says.
        super().__init__(make_net, recipe, **hyperparameters)
        recurrent = weight_matrices(self.net, recurrent=True)
        if matrices == "recurrent" and not recurrent:
            raise ValueError("matrices=recurrent needs an architecture with recurrent layers")
        only_recurrent = matrices == "recurrent" or (matrices is None and bool(recurrent))
        last = [name_of_last_layer(self.net)] if (not only_recurrent if last_layer is None else last_layer) else []
        candidates = recurrent if only_recurrent else weight_matrices(self.net)
        self.matrices = [name for name in candidates if name.rpartition(".")[0] not in last]
        check_untied(self.net, self.matrices, "rank-1 factors change each matrix by itself")
        with seeded(self.generator("rank-1 factors")):
            factors = [RankOne(self.net.get_parameter(name)) for name in self.matrices]
        self.replicate(last, factors)

    def generate(self, factors: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Return every matrix times its factors."""
        return {name: factor(self.net.get_parameter(name)) for name, factor in zip(self.matrices, factors, strict=True)}

    def member_forwards(self, members: Sequence[int]) -> dict[nn.Module, LayerForward]:
        """Add replacement forwards that scale the inputs and outputs of the layers with factors."""
        layers = [cast(Weighted, self.net.get_submodule(name.rpartition(".")[0])) for name in self.matrices]
        factors = zip(*(self.own_parts(k)[len(self.names) :] for k in members), strict=True)
        scaled: dict[nn.Module, LayerForward] = {
            layer: Rank1ScaledLayer(layer, own) for layer, own in zip(layers, factors, strict=True)
        }
        return {**super().member_forwards(members), **scaled}
