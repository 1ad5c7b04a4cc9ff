"""Packed-Ensembles: an ensemble of thin networks in the grouped convolutions of one."""

from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods import About, MakeNet, Method, Recipe, Weights


class PackedEnsemble(Method):
    """Train K networks of alpha / K of the width in the groups of one network's convolutions.

    References:
        Laurent et al., Packed-Ensembles for efficient uncertainty estimation, ICLR 2023.
    """

    about = About("implicit ensembles", "Laurent et al. 2023")
    space: ClassVar[dict[str, BaseDistribution]] = {"alpha": IntDistribution(1, 4)}
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 2,
        alpha: Annotated[int, Field(ge=1)] = 2,
    ) -> None:
        """Make a network `alpha` times as wide, in `K` groups."""
        self.K, self.C = K, make_net.data.classes
        super().__init__(make_net.replace(width=alpha, groups=K, classes=K * self.C), recipe)

    def predict_with(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the logits of every member, (K, B, C)."""
        return self(x, weights).unflatten(1, (self.K, self.C)).transpose(0, 1)

    def loss(self, x: Tensor, y: Tensor, weights: Weights | None = None) -> Tensor:
        """Give the mean of the members' losses."""
        return sum(self.recipe.criterion(logits, y) for logits in self.predict_with(x, weights)) / self.K
