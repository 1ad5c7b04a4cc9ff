"""Dropout in training; prediction uses the whole network."""

from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import nn

from methods.core.declarations import About, Sharing, Trunk
from methods.core.method import Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe

DROPOUT_SHARING = Sharing(lambda method: Trunk(f"dropout {Dropout.version} at {method.p!r}", method.epochs))
"""The trunk of `Dropout` and `MCDropout`, whose training is identical."""


class Dropout(Method):
    """Train one network with dropout, and predict with the whole network.

    References:
        Srivastava et al., Dropout, JMLR 2014; rate 0.2 as in von Oswald et al., ICLR 2021, Table 13.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {"p": FloatDistribution(0.05, 0.5)}
    about: ClassVar[About] = About("regularisation", "Srivastava et al. 2014")
    sharing: ClassVar[Sharing] = DROPOUT_SHARING
    divisible = True

    def __init__(self, make_net: MakeNet, recipe: Recipe, *, p: Annotated[float, Field(gt=0, lt=1)] = 0.2) -> None:
        """Build a network with dropout.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            p: the probability with which an activation is dropped.

        Raises:
            ValueError: for an architecture without dropout layers.
        """
        super().__init__(make_net.replace(dropout=p), recipe)
        self.p = p
        self.start_epoch = 0
        if not self.dropout_layers():
            raise ValueError("this architecture has no dropout layers")

    def dropout_layers(self) -> list[nn.Dropout]:
        """Return the dropout layers of the network."""
        return [layer for layer in self.net.modules() if isinstance(layer, nn.Dropout)]
