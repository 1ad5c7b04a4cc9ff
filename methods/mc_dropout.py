"""Monte Carlo dropout: predict with an ensemble of random dropout masks."""

from typing import Annotated, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods.core.declarations import About, Sharing
from methods.core.random_streams import MakeNet, seeded
from methods.core.recipe import Recipe
from methods.dropout import DROPOUT_SHARING, Dropout


class MCDropout(Dropout):
    """Train with dropout, and predict with K random dropout masks.

    The masks depend only on the seed and the epoch.

    References:
        Gal & Ghahramani, Dropout as a Bayesian approximation, ICML 2016. 10 samples and p = 0.2 as in
        von Oswald et al., ICLR 2021, Table 13.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {**Dropout.space, "K": IntDistribution(2, 50)}
    about: ClassVar[About] = About("implicit ensembles", "Gal & Ghahramani 2016", prediction="K")
    sharing: ClassVar[Sharing] = DROPOUT_SHARING
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        p: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        K: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        """Build a network with dropout.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            p: the probability with which an activation is dropped.
            K: the number of masks for each prediction.
        """
        super().__init__(make_net, recipe, p=p)
        self.K = K

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits with K dropout masks, (K, B, C); BatchNorm stays in evaluation mode."""
        layers = self.dropout_layers()
        try:
            for layer in layers:
                layer.train()
            # Deviation: every batch gets the same K masks for its first row, its second row, and so on, so that a
            # prediction does not depend on earlier predictions.
            with seeded(self.generator("dropout at test time"), x.device):
                return torch.stack([self(x) for _ in range(self.K)])
        finally:
            for layer in layers:
                layer.eval()
