"""Rank-1 factors of weight matrices, as late-phase weights and alone."""

from typing import ClassVar, Literal

from optuna.distributions import BaseDistribution

from methods.core.declarations import About, Sharing
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.late_phase_rank1 import RANK1_SHARING, LatePhaseRank1


class Rank1(LatePhaseRank1):
    """Plain training with a pair of rank-1 factors a weight matrix: the control "Base + Rank1".

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, Table 6.
    """

    about: ClassVar[About] = About("plain training", "von Oswald et al. 2021")
    sharing: ClassVar[Sharing] = RANK1_SHARING
    space: ClassVar[dict[str, BaseDistribution]] = {}

    def __init__(
        self, make_net: MakeNet, recipe: Recipe, *, matrices: Literal["all", "recurrent"] | None = None
    ) -> None:
        """Give `matrices` factors, as `LatePhaseRank1` does, the last layer's too: no part of the network is late."""
        super().__init__(make_net, recipe, matrices=matrices, last_layer=False, start=None)
