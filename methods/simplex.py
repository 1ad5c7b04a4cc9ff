"""Learned simplex: train all networks of a triangle, tetrahedron … in weight space."""

from typing import Annotated, Any, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods.core.declarations import Sharing
from methods.core.random_streams import CPU, MakeNet
from methods.core.recipe import Recipe
from methods.core.subspace import SUBSPACE_SHARING, Alpha, Subspace


class Simplex(Subspace):
    """Train all convex combinations of m networks, P(α) = Σ α_i ω_i.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 3; sampling in appendix D.1.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {**Subspace.space, "m": IntDistribution(2, 6)}
    sharing: ClassVar[Sharing] = SUBSPACE_SHARING
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        m: Annotated[int, Field(ge=2)] = 3,
        alpha: tuple[float, ...] | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Set the number of networks, and the point that predicts.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            m: the number of networks that span the simplex.
            alpha: the coordinates of the point that predicts: m numbers that sum to one, of which some may be negative.
                None: the first network.
            hyperparameters: those of `Subspace`.

        Raises:
            ValueError: for fewer than two networks; for `alpha` that is no point of the simplex or has no effect.
        """
        prediction = hyperparameters.get("prediction", "midpoint")
        if m < 2:
            raise ValueError(f"m={m}: a simplex needs two networks or more")
        if prediction == "pair":
            raise ValueError("prediction=pair: a point of a simplex has no opposite point; take random or point")
        if alpha is not None and prediction != "point":
            raise ValueError(f"alpha={alpha} is the position of a point; it needs prediction=point")
        if alpha is not None and (len(alpha) != m or abs(sum(alpha) - 1) > 1e-6):
            raise ValueError(f"alpha={alpha}: the position of a point has m={m} numbers, which sum to one")
        self.m = m
        vertex = [1.0] + [0.0] * (m - 1)
        alphas: dict[str, list[Alpha]] = {"midpoint": [[1 / m] * m], "point": [alpha or vertex], "random": []}
        super().__init__(make_net, recipe, alphas[prediction], **hyperparameters)

    def draw_alpha(self, generator: torch.Generator) -> Tensor:
        """Draw from Exp(1) and normalise, which is uniform on the simplex (appendix D.1)."""
        alpha = torch.empty(*self.shape, self.m, device=CPU).exponential_(generator=generator)
        return alpha / alpha.sum(-1, keepdim=True)

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Return α, whose entries are the coefficients."""
        return alpha

    def distance(self, alpha: Tensor, other: Tensor) -> float:
        """Return half the L1 distance, which on an edge is |α_j − α_k|; if layerwise, its mean over layers."""
        # Deviation: Equation 13 is stated for lines and curves only. This distance agrees with it on a simplex of two.
        return float((alpha - other).abs().sum(-1).mean() / 2)
