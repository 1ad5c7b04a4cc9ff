"""Late-phase weights that are layers of the network: BatchNorm, the last layer, or both."""

from typing import Any, ClassVar

from methods.core.batch_norm import batch_norms
from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_PHASE, LATE_SHARING, LatePhase
from methods.core.layers import last_layer as name_of_last_layer
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe


class LatePhaseBatchNorm(LatePhase):
    """BatchNorm scale and shift (and the last layer) as late-phase weights.

    Every member keeps its own running statistics; the convolutions stay shared.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2.
    """

    about: ClassVar[About] = LATE_PHASE
    sharing: ClassVar[Sharing] = LATE_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, last_layer: bool = True, **hyperparameters: Any) -> None:
        """Take the BatchNorm layers, and the last layer unless `last_layer` is false; the rest as `LatePhase`.

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
