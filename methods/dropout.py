"""Dropout in training, and as an ensemble of thinned networks at test time."""

from typing import Annotated, ClassVar

import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.base import About, Method
from methods.recipe import Recipe
from methods.streams import MakeNet, seeded
from methods.trunk import Sharing, Trunk

DROPOUT = Sharing(lambda method: Trunk(f"dropout {Dropout.version} at {method.p!r}", method.epochs))
"""With or without dropout at test time, training is the same."""


class Dropout(Method):
    """Train one network with dropout; predict with the whole network.

    References:
        Srivastava et al., Dropout, JMLR 2014; rate 0.2 as in von Oswald et al., ICLR 2021, Table 13.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {"p": FloatDistribution(0.05, 0.5)}
    about: ClassVar[About] = About("regularisation", "Srivastava et al. 2014")
    sharing: ClassVar[Sharing] = DROPOUT

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, p: Annotated[float, Field(gt=0, lt=1)] = 0.2) -> None:
        """Build a network whose dropout layers drop with probability `p`."""
        super().__init__(make_net.having(dropout=p), recipe)
        self.p = p
        self.start_epoch = 0
        if not self.dropout_layers():
            raise ValueError("this architecture has no place for dropout")

    def dropout_layers(self) -> list[nn.Dropout]:
        """List the dropout layers of the network."""
        return [layer for layer in self.net.modules() if isinstance(layer, nn.Dropout)]


class MCDropout(Dropout):
    """Train with dropout; predict with K networks thinned at random (Monte-Carlo dropout).

    The masks are a function of the seed and the epoch.

    References:
        Gal & Ghahramani, Dropout as a Bayesian approximation, ICML 2016. 10 samples and p = 0.2 as in
        von Oswald et al., ICLR 2021, Table 13.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {**Dropout.space, "K": IntDistribution(2, 50)}
    about: ClassVar[About] = About("implicit ensembles", "Gal & Ghahramani 2016", prediction="K")
    sharing: ClassVar[Sharing] = DROPOUT

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        p: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        K: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        """Take `K` samples for each prediction."""
        super().__init__(make_net, recipe, p=p)
        self.K = K

    def predict(self, x: Tensor) -> Tensor:
        """Give the logits of K thinned networks, (K, B, C); BatchNorm stays in evaluation mode."""
        layers = self.dropout_layers()
        try:
            for layer in layers:
                layer.train()
            # Deviation: every batch gets the same K draws of masks, one for each place in the batch, so that
            # a prediction does not depend on what was predicted before.
            with seeded(self.generator("dropout at test time"), x.device):
                return torch.stack([self(x) for _ in range(self.K)])
        finally:
            for layer in layers:
                layer.eval()
