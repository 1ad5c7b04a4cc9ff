"""BatchNorm layers as late-phase weights, with or without the last layer."""

from typing import Any, ClassVar

from methods.core.batch_norm import batch_norms
from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_PHASE_ABOUT, LATE_PHASE_SHARING, LatePhase
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe


class LatePhaseBatchNorm(LatePhase):
    """Use BatchNorm's scale and shift, and the last layer, as late-phase weights.

    Each member has its own running statistics. Members share the convolutions.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2.
    """

    about: ClassVar[About] = LATE_PHASE_ABOUT
    sharing: ClassVar[Sharing] = LATE_PHASE_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 4
    divisible = True

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, last_layer: bool = True, **hyperparameters: Any) -> None:
        """Set which layers are late-phase weights.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            last_layer: whether the last layer is among the late-phase weights.
            hyperparameters: those of `LatePhase`.

        Raises:
            ValueError: for a network without BatchNorm.
        """
        super().__init__(make_net, recipe, **hyperparameters)
        norms = [n for n, layer in batch_norms(self.net).items() if layer.affine and layer.track_running_stats]
        if not norms:
            raise ValueError(
                "late-phase BatchNorm weights need an architecture with BatchNorm layers: with a scale, a shift and "
                "running statistics"
            )
        self.replicate([*norms, *([name_of_last_layer(self.net)] if last_layer else [])])
