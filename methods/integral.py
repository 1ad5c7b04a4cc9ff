"""Integral over a line: train networks whose average output along a line is the output of one network."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from optuna.distributions import BaseDistribution, FloatDistribution
from pydantic import Field
from torch import Tensor

from methods.core.declarations import About, Anchor
from methods.core.layers import carries_state
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.line import Line


class Integral(Line):
    """Train f(P(α)) = g(P(0)) + dg(P(α))/dα on a line; its integral over the line is the one network g(P(1)).

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, appendix C, Equations 14–17.
    """

    version: ClassVar[int] = 1
    space: ClassVar[dict[str, BaseDistribution]] = {
        "epsilon": FloatDistribution(0.05, 0.5, log=True),
        "beta": FloatDistribution(0.0, 4.0),
    }
    about: ClassVar[About] = About("learned subspaces", "Wortsman et al. 2021", training="3", passes="1")
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        epsilon: Annotated[float, Field(gt=0)] = 0.1,
        beta: Annotated[float, Field(ge=0)] = 0.0,
        init: Literal["independent", "point"] = "point",
    ) -> None:
        """Draw the two ends of the line of g.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            epsilon: ε, the step of the finite difference (Equation 17); α + ε may lie beyond the line.
            beta: strength of the penalty on the squared cosine between the ends (Equation 5).
            init: the ends start from "independent" draws, or both from one "point", where f equals g(P(0)).

        Raises:
            ValueError: for a network that carries its state from one minibatch to the next.
        """
        # Deviation: the paper gives neither β nor the initialisation here. Ends that start far apart make f steep. A
        # small convolutional network without BatchNorm then does not learn the digits at rate 0.05; from one point it
        # does.
        # The penalty keeps ends apart for an ensemble of two, and there is none here.
        # Gradients of the difference are divided by ε, and are noisy wherever g bends (rectifiers, max-pooling). Such
        # networks need a low rate and many epochs: LeNet-5 reaches 94.7 % on the digits in 100 epochs at 0.005.
        super().__init__(make_net, recipe, beta=beta, init=init, prediction="point", alpha=1.0)
        if carries_state(self.net):
            raise ValueError(
                "the method runs the network three times a minibatch, but this architecture carries its state from one "
                "minibatch to the next"
            )
        self.epsilon = epsilon

    def loss_at_random_points(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of f at a random point."""
        return self.recipe.criterion(self.output(x, self.draw_alpha(self.alpha_draws)), y)

    def output(self, x: Tensor, alpha: float | Tensor) -> Tensor:
        """Return the logits of f at a point, (B, C), from three forward passes of g (Equation 17)."""
        start, here, ahead = (self(x, self.weights_at(point)) for point in (0.0, alpha, alpha + self.epsilon))
        logits: Tensor = start + (ahead - here) / self.epsilon
        return logits

    def anchors(self) -> Iterable[Anchor]:
        """Return the one network that predicts; the other networks on the line of g are no classifiers."""
        return (Anchor(weights) for weights in self.members())
