"""Learned simplexes: triangles, tetrahedra … in weight space whose every point is an accurate network."""

from typing import Annotated, Any, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods.core.declarations import Sharing
from methods.core.random_streams import CPU, MakeNet
from methods.core.recipe import Recipe
from methods.core.subspace import SUBSPACE_SHARING, Place, Subspace


class Simplex(Subspace):
    """Train all convex combinations of m networks: P(α) = Σ α_i ω_i.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 3; sampling in appendix D.1.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {**Subspace.space, "m": IntDistribution(2, 6)}
    sharing: ClassVar[Sharing] = SUBSPACE_SHARING

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        m: Annotated[int, Field(ge=2)] = 3,
        alpha: tuple[float, ...] | None = None,
        **hyperparameters: Any,
    ) -> None:
        """Take `m` networks, and the place `alpha` of the point that predicts.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            m: how many networks span the simplex.
            alpha: m shares that sum to one, some perhaps negative; None for the first network.
            hyperparameters: those of `Subspace`.

        Raises:
            ValueError: for a simplex or a place that is none.
        """
        prediction = hyperparameters.get("prediction", "midpoint")
        if m < 2:
            raise ValueError(f"m={m}: a simplex needs two networks or more")
        if prediction == "pair":
            raise ValueError("prediction=pair: a place in a simplex has no opposite; take random or point")
        if alpha is not None and prediction != "point":
            raise ValueError(f"alpha={alpha} is the place of a point; it needs prediction=point")
        if alpha is not None and (len(alpha) != m or abs(sum(alpha) - 1) > 1e-6):
            raise ValueError(f"alpha={alpha}: the place of a point are m={m} shares that sum to one")
        self.m = m
        vertex = [1.0] + [0.0] * (m - 1)
        places: dict[str, list[Place]] = {"midpoint": [[1 / m] * m], "point": [alpha or vertex], "random": []}
        super().__init__(make_net, recipe, places[prediction], **hyperparameters)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw from Exp(1), normalised: uniform on the simplex (appendix D.1)."""
        shares = torch.empty(*self.shape, self.m, device=CPU).exponential_(generator=generator)
        return shares / shares.sum(-1, keepdim=True)

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Give α itself."""
        return alpha

    def distance(self, alpha: Tensor, other: Tensor) -> float:
        """Give half the L1 distance: |α_j − α_k| on an edge; if layerwise, its mean over layers."""
        # Deviation: Equation 13 is stated for lines and curves only; this is the choice that agrees with a line's.
        return float((alpha - other).abs().sum(-1).mean() / 2)
