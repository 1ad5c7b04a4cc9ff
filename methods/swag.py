"""SWAG: sample networks from a Gaussian around the average of the weights, of any method."""

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
from methods.core.weight_averaging import WeightAveraging, flatten
from methods.core.wrapper import SHARED_UNTIL_START
from methods.sgd import SGD

SPLITMIX_GAMMA, SPLITMIX_1, SPLITMIX_2 = (
    constant - (1 << 64) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""The constants of SplitMix64 as signed integers; 64-bit arithmetic wraps around."""
MANTISSA_MASK = (1 << 24) - 1
"""As many one-bits as a float32 represents exactly."""


class SWAG(WeightAveraging):
    """Fit a Gaussian to the states that are averaged, and predict with N networks sampled from it.

    Its covariance is the sum of a diagonal matrix and a low-rank matrix. The diagonal comes from the running means of
    the weights and of their squared deviations. The low-rank matrix comes from the last deviations of a state from the
    running mean. Each sample has running statistics of its own, from one pass over the training data. A sample's
    weights are not kept: they are drawn again from the sample's random stream at every prediction. The Gaussian and the
    samples' statistics are kept.

    References:
        Maddox et al., A simple baseline for Bayesian uncertainty in deep learning, NeurIPS 2019, section 3,
        Equation 1 and Algorithm 1.
    """

    space: ClassVar[dict[str, BaseDistribution]] = {
        **WeightAveraging.space,
        "rank": IntDistribution(2, 40),
        "scale": FloatDistribution(0.05, 2.0, log=True),
    }
    about: ClassVar[About] = About("weight averaging", "Maddox et al. 2019", passes="N", prediction="N")
    sharing: ClassVar[Sharing] = SHARED_UNTIL_START._replace(
        prediction=frozenset({"N", "scale"}), prepared=("statistics",)
    )
    version: ClassVar[int] = 3
    divisible = True

    variance: Tensor
    deviations: Tensor

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        rank: Annotated[int, Field(ge=0)] = 20,
        scale: Annotated[float, Field(ge=0)] = 0.5,
        N: Annotated[int, Field(ge=1)] = 30,
        of: MakeMethod = SGD,
        **averaging: Any,
    ) -> None:
        """Fit the Gaussian from epoch `start` on; hyperparameters not named here are those of `WeightAveraging`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            rank: how many deviations are kept, the last ones. 0: only the diagonal covariance (SWAG-Diagonal, for which
                the recommended scale is 1).
            scale: factor on the covariance. 0.5 makes it the mean of the two matrices (Equation 1), 0 leaves SWA.
            N: the number of samples.
            **averaging: hyperparameters of `WeightAveraging`.

        Raises:
            ValueError: for a rank of 1, and for fewer than two collected states, which have no variance.
        """
        super().__init__(make_net, recipe, of=of, **averaging)
        if len(self.cycle_ends) < 2:
            setting = "checkpoints=1 is" if averaging.get("checkpoints") else f"start={self.start_epoch} leaves"
            raise ValueError(f"SWAG fits a Gaussian to two states or more, but {setting} one")
        if rank == 1:
            raise ValueError("rank=1 is one deviation, which has no spread; 0 is the diagonal Gaussian")
        self.scale = scale
        weights = self.average.weights_to_average()
        size = sum(p.numel() for p in weights)  # P, all weights as one vector
        self.register_buffer("variance", weights[0].new_zeros(size, requires_grad=False))  # (P,)
        kept = min(rank, len(self.cycle_ends))
        self.register_buffer("deviations", self.variance.new_zeros(kept, size))  # (rank, P)
        self.allocate_points(N)

    @torch.no_grad()
    def collect(self, i: int) -> None:
        """Add the state at the end of cycle i to the moments, and replace the oldest deviation by its deviation."""
        state = flatten(self.inner.weights_to_average())
        before = state - flatten(self.average.weights_to_average())
        super().collect(i)
        after = state - flatten(self.average.weights_to_average())
        # Deviation: the paper's mean of squares less the square of the mean cancels in float32 if weights move little.
        self.variance.lerp_(before * after, 1.0 / (i + 1))
        if len(self.deviations):
            self.deviations[i % len(self.deviations)] = after

    @property
    def has_enough_states(self) -> bool:
        """Whether at least two states are collected."""
        return self.collected_count >= 2

    def point_weights(self, i: int, mean: Tensor) -> Tensor:
        """Return sample i (Equation 1)."""
        noise = self.variance.clamp(min=1e-30).sqrt() * normal(self.generator(f"sample {i}: weights"), mean)
        columns = self.deviations[: self.collected_count]
        if len(columns):
            z = normal(self.generator(f"sample {i}: columns"), columns[:, 0])  # shared by the whole network
            # Deviation: the authors' code divides by rank - 1 even where fewer deviations were collected.
            noise += z @ columns / math.sqrt(len(columns) - 1)
        return mean + math.sqrt(self.scale) * noise


def normal(generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw standard normal numbers on the device of `like`; they are the same on every device, to rounding.

    Each batch of a prediction needs N·P numbers, which is too many for a generator on the CPU. The numbers of a CUDA
    generator depend on the GPU. But the statistics of a sample that was prepared on one device must fit the same sample
    when it is drawn again on another. So number i is a hash of the seed and i (SplitMix64: Steele et al. 2014), and the
    Box–Muller transform makes it normal.

    Args:
        generator: its seed is used.
        like: a vector with the length, device and type of the result.
    """
    bits = torch.arange(1, len(like) + 1, device=like.device).mul_(SPLITMIX_GAMMA).add_(generator.initial_seed())
    for shift, factor in ((30, SPLITMIX_1), (27, SPLITMIX_2), (31, 1)):
        bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << 64 - shift) - 1)).mul_(factor)
    radius = (bits >> 40).bitwise_and_(MANTISSA_MASK).add_(1).float().div_(MANTISSA_MASK + 1)  # in (0, 1]
    angle = bits.bitwise_and_(MANTISSA_MASK).float().mul_(2 * math.pi / (MANTISSA_MASK + 1))
    return radius.log_().mul_(-2).sqrt_().mul_(angle.cos_()).to(like.dtype)
