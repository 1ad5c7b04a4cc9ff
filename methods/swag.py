"""SWAG: a Gaussian around the average of weights, of any method."""

import math
from typing import Annotated, Any, ClassVar

import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods.core.declarations import About, Sharing
from methods.core.method import MakeMethod
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.core.weight_averaging import Averaging, flat
from methods.core.wrapper import UNTIL_START
from methods.sgd import SGD

GAMMA, MIX_1, MIX_2 = (
    constant - (1 << 64) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""SplitMix64's constants as signed numbers: 64-bit arithmetic wraps around."""
MASK = (1 << 24) - 1
"""As many bits as a float32 holds exactly."""


class SWAG(Averaging):
    """Fit a Gaussian to the states that are averaged, and predict with N networks sampled from it.

    Its covariance is the sum of a diagonal one, from the running means of the weights and of their squares, and one of
    low rank, from the last deviations of a state from the running mean. Each sample gets its own pass over the
    training data for its running statistics. Samples are made anew from their streams whenever they predict; kept
    are the Gaussian and the samples' statistics.

    References:
        Maddox et al., A simple baseline for Bayesian uncertainty in deep learning, NeurIPS 2019, section 3,
        Equation 1 and Algorithm 1.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        **Averaging.space,
        "rank": IntDistribution(2, 40),
        "scale": FloatDistribution(0.05, 2.0, log=True),
    }
    about: ClassVar[About] = About("weight averaging", "Maddox et al. 2019", passes="N", prediction="N")
    sharing: ClassVar[Sharing] = UNTIL_START._replace(prediction=frozenset({"N", "scale"}), prepared=("statistics",))

    squares: Tensor
    deviations: Tensor

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        rank: Annotated[int, Field(ge=0)] = 20,
        scale: Annotated[float, Field(ge=0)] = 0.5,
        N: Annotated[int, Field(ge=1)] = 30,
        **averaging: Any,
    ) -> None:
        """Fit the Gaussian from epoch `start` on; the hyperparameters not named here are those of `Averaging`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            rank: how many deviations are kept, the last ones; 0 leaves the diagonal covariance alone (SWAG-Diagonal,
                whose recommended scale is 1).
            scale: factor on the covariance; 0.5 makes it the mean of the two (Equation 1), 0 leaves SWA.
            N: the number of samples.
            **averaging: the hyperparameters of `Averaging`.

        Raises:
            ValueError: for a rank of 1, and where fewer than two states are collected: they have no spread.
        """
        super().__init__(make_net, recipe, of=of, **averaging)
        if len(self.ends) < 2:
            setting = "checkpoints=1 is" if averaging.get("checkpoints") else f"start={self.start_epoch} leaves"
            raise ValueError(f"SWAG fits a Gaussian to two states or more, but {setting} one")
        if rank == 1:
            raise ValueError("rank=1 is one deviation, which has no spread; 0 is the diagonal Gaussian")
        weights = flat(self.average.parameters())
        self.scale = scale
        self.register_buffer("squares", torch.zeros_like(weights))  # (P,), all weights as one vector
        self.register_buffer("deviations", weights.new_zeros(min(rank, len(self.ends)), len(weights)))  # (rank, P)
        self.visit_later(N)

    @torch.no_grad()
    def collect(self, i: int) -> None:
        """Add the state at the end of cycle i to the moments, and its deviation in place of the oldest one."""
        super().collect(i)
        state = flat(self.inner.parameters())
        self.squares.lerp_(state.square(), 1.0 / (i + 1))
        if len(self.deviations):
            self.deviations[i % len(self.deviations)] = state - flat(self.average.parameters())

    @property
    def ready(self) -> bool:
        """Whether two states are collected."""
        return self.taken >= 2

    def point(self, i: int, mean: Tensor) -> Tensor:
        """Draw sample i (Equation 1)."""
        variance = (self.squares - mean.square()).clamp(min=1e-30)
        noise = variance.sqrt() * normal(self.generator(f"sample {i}: weights"), mean)
        columns = self.deviations[: self.taken]
        if len(columns):
            z = normal(self.generator(f"sample {i}: columns"), columns[:, 0])  # one for the whole network
            # Deviation: the authors' code divides by rank - 1 even where fewer deviations were collected.
            noise += z @ columns / math.sqrt(len(columns) - 1)
        return mean + math.sqrt(self.scale) * noise


def normal(generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw standard normal numbers where they are needed, the same ones (to rounding) on every device.

    A prediction asks for N·P of them a batch, too many for a generator on the CPU. Those of CUDA depend on the GPU,
    but the statistics of a sample that was prepared on one must fit the sample that is made anew on another. So
    the i-th number is a hash of the seed and i (SplitMix64: Steele et al. 2014), made normal by Box and Muller.

    Args:
        generator: whose seed is taken.
        like: a vector as long as the one to be drawn, on its device and of its type.
    """
    bits = torch.arange(1, len(like) + 1, device=like.device).mul_(GAMMA).add_(generator.initial_seed())
    for shift, factor in ((30, MIX_1), (27, MIX_2), (31, 1)):
        bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << 64 - shift) - 1)).mul_(factor)
    radius = (bits >> 40).bitwise_and_(MASK).add_(1).float().div_(MASK + 1)  # in (0, 1]
    angle = bits.bitwise_and_(MASK).float().mul_(2 * math.pi / (MASK + 1))
    return radius.log_().mul_(-2).sqrt_().mul_(angle.cos_()).to(like.dtype)
