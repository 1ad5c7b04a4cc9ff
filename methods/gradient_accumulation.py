"""Gradient accumulation: what the late phase does to the base weights, without late-phase weights."""

from typing import Annotated, ClassVar, Literal

from optuna.distributions import BaseDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_SHARING, LatePhase
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe


class GradientAccumulation(LatePhase):
    """From T0 on, sum the gradients of K minibatches for each step: the control of the late-phase paper.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, appendix B, Table 10.
    """

    about: ClassVar[About] = About("plain training", "von Oswald et al. 2021")
    sharing: ClassVar[Sharing] = LATE_SHARING
    fusible: ClassVar[bool] = True
    space: ClassVar[dict[str, BaseDistribution]] = {
        name: LatePhase.space[name] for name in ("K", "start", "gamma_theta")
    }

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 10,
        start: Position = 0.6,
        gamma_theta: Annotated[float, Field(gt=0)] | Literal["1/K"] = 1.0,
        leftover: Literal["step", "carry", "drop"] = "step",
    ) -> None:
        """Accumulate the gradients of `K` minibatches, times γ_θ; the arguments are those of `LatePhase`."""
        super().__init__(make_net, recipe, K=K, start=start, gamma_theta=gamma_theta, leftover=leftover)
        self.replicate([])
