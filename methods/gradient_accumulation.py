"""Gradient accumulation late in training: the control for the late phase, without late-phase weights."""

from typing import Annotated, ClassVar, Literal

from optuna.distributions import BaseDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_PHASE_SHARING, LatePhase
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe


class GradientAccumulation(LatePhase):
    """From T0 on, sum the gradients of K minibatches for each step, as the late phase does for the base weights.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, appendix B, Table 10.
    """

    about: ClassVar[About] = About("plain training", "von Oswald et al. 2021")
    sharing: ClassVar[Sharing] = LATE_PHASE_SHARING._replace(prediction=frozenset())
    fusible: ClassVar[bool] = True
    space: ClassVar[dict[str, BaseDistribution]] = {
        name: LatePhase.space[name] for name in ("K", "start", "gamma_theta")
    }
    version: ClassVar[int] = 3
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 10,
        start: Position = 0.6,
        gamma_theta: Annotated[float, Field(gt=0)] | Literal["1/K"] = 1.0,
        leftover: Literal["carry", "step", "drop"] = "carry",
    ) -> None:
        """Set how gradients are accumulated.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: how many minibatches' gradients are summed for a step.
            start: T0, an epoch or a fraction of all epochs.
            gamma_theta: factor γ_θ on the sum; see `LatePhase`.
            leftover: what happens to the last minibatches of an epoch; see `LatePhase`.
        """
        super().__init__(make_net, recipe, K=K, start=start, gamma_theta=gamma_theta, leftover=leftover)
        self.replicate([])
