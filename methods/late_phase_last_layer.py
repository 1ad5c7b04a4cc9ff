"""The last layer as late-phase weights."""

from typing import Any, ClassVar

from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_PHASE_ABOUT, LATE_PHASE_SHARING, LatePhase
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe


class LatePhaseLastLayer(LatePhase):
    """Use the last layer as late-phase weights; members share all else, including BatchNorm's statistics.

    References:
        von Oswald et al., ICLR 2021, section 2.2; Lee et al., Why M heads are better than one head, 2015.
    """

    about: ClassVar[About] = LATE_PHASE_ABOUT
    sharing: ClassVar[Sharing] = LATE_PHASE_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 3
    divisible = True

    def __init__(self, make_net: MakeNet, recipe: Recipe, **hyperparameters: Any) -> None:
        """Set the hyperparameters, all of which are those of `LatePhase`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            hyperparameters: those of `LatePhase`.
        """
        super().__init__(make_net, recipe, **hyperparameters)
        self.replicate([name_of_last_layer(self.net)])
