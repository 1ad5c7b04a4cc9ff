"""Late-phase weights that are layers of the network: BatchNorm, the last layer, or both."""

from typing import Any, ClassVar

from methods.base import About
from methods.batch_norm import batch_norms
from methods.late_phase import LATE_PHASE, LATE_SHARING, LatePhase
from methods.layers import last_layer as name_of_last_layer
from methods.recipe import Recipe
from methods.streams import MakeNet
from methods.trunk import Sharing


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


class LatePhaseLastLayer(LatePhase):
    """The last layer as late-phase weights; members share everything else, BatchNorm's statistics too.

    References:
        von Oswald et al., ICLR 2021, section 2.2; Lee et al., Why M heads are better than one head, 2015.
    """

    about: ClassVar[About] = LATE_PHASE
    sharing: ClassVar[Sharing] = LATE_SHARING
    fusible: ClassVar[bool] = True

    def __init__(self, make_net: MakeNet, recipe: Recipe, **hyperparameters: Any) -> None:
        """Take the last layer; the rest as `LatePhase`."""
        super().__init__(make_net, recipe, **hyperparameters)
        self.replicate([name_of_last_layer(self.net)])
