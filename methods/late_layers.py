"""Late-phase weights that are layers of the network: BatchNorm, the last layer, or both."""

from typing import Any, ClassVar

from methods.base import About
from methods.batch_norm import batch_norms
from methods.late_phase import LatePhase
from methods.layers import last_layer as name_of_last_layer
from methods.recipe import Recipe
from methods.streams import MakeNet

LATE_PHASE = About(
    "late-phase weights",
    "von Oswald et al. 2021",
    passes="K if statistics == 'reestimate_members' else 1 if statistics == 'reestimate' else 0",
    prediction="K if prediction == 'members' else 1",
)


class LatePhaseBatchNorm(LatePhase):
    """BatchNorm scale and shift (and the last layer) as late-phase weights.

    Every member keeps its own running statistics; the convolutions stay shared.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2.
    """

    about: ClassVar[About] = LATE_PHASE

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, last_layer: bool = True, **hyperparameters: Any) -> None:
        """Take the BatchNorm layers, and the last layer unless `last_layer` is false; the rest as `LatePhase`.

        Raises:
            ValueError: for a network without BatchNorm.
        """
        super().__init__(make_net, recipe, **hyperparameters)
        norms = [name for name, layer in batch_norms(self.net).items() if layer.affine]
        if not norms:
            raise ValueError("late-phase BatchNorm weights need an architecture with BatchNorm layers")
        self.replicate([*norms, *([name_of_last_layer(self.net)] if last_layer else [])])


class LatePhaseLastLayer(LatePhase):
    """The last layer as late-phase weights; members share everything else, BatchNorm's statistics too.

    References:
        von Oswald et al., ICLR 2021, section 2.2; Lee et al., Why M heads are better than one head, 2015.
    """

    about: ClassVar[About] = LATE_PHASE

    def __init__(self, make_net: MakeNet, recipe: Recipe, **hyperparameters: Any) -> None:
        """Take the last layer; the rest as `LatePhase`."""
        super().__init__(make_net, recipe, **hyperparameters)
        self.replicate([name_of_last_layer(self.net)])
