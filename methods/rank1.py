"""Plain training with rank-1 factors of weight matrices: the control for `late_phase_rank1`."""

from typing import ClassVar, Literal

from optuna.distributions import BaseDistribution

from methods.core.declarations import About, Sharing
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.late_phase_rank1 import RANK1_SHARING, LatePhaseRank1


class Rank1(LatePhaseRank1):
    """Train one network with a pair of rank-1 factors per weight matrix: the control "Base + Rank1".

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, Table 6.
    """

    about: ClassVar[About] = About("plain training", "von Oswald et al. 2021")
    sharing: ClassVar[Sharing] = RANK1_SHARING._replace(prediction=frozenset())
    space: ClassVar[dict[str, BaseDistribution]] = {}
    version: ClassVar[int] = 1
    divisible = True

    def __init__(
        self, make_net: MakeNet, recipe: Recipe, *, matrices: Literal["all", "recurrent"] | None = None
    ) -> None:
        """Set which matrices have factors; there is no late phase.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            matrices: see `LatePhaseRank1`; the last layer has factors too.
        """
        super().__init__(make_net, recipe, matrices=matrices, last_layer=False, start=None)
