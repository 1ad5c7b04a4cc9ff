"""Dropout in training, and as an ensemble of thinned networks at test time."""

from typing import Annotated, ClassVar

from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import nn

from methods.core.declarations import About, Sharing, Trunk
from methods.core.method import Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe

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
