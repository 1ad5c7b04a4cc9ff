"""ShakeDrop: random factors on the residual branches of a deep network, different forward and backward."""

import torch
from torch import Tensor, nn

ALPHA_RANGE = (-1.0, 1.0)
BETA_RANGE = (0.0, 1.0)
"""Ranges of a perturbed branch's factors: alpha in the forward pass, beta in the backward pass."""


class ShakeDrop(nn.Module):
    """Multiply a residual branch F(x) by b + α − bα, and its gradient in the backward pass by b + β − bβ.

    With probability p, b is one and the branch is unchanged. Otherwise b is zero, and the factors are α ~ U[−1, 1]
    forward and β ~ U[0, 1] backward. In evaluation mode, the branch is multiplied by the expected factor,
    p + (1 − p)E[α] = p.

    Args:
        p: Probability that the branch is unchanged, in [0, 1].

    Raises:
        ValueError: If `p` is not in [0, 1].

    References:
        Yamada et al., ShakeDrop regularization for deep residual learning, IEEE Access 2019 (arXiv 1802.02375).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"ShakeDrop: p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch times its factor, with the shape of x.

        Args:
            x: The residual branch, (B, C, H, W).
        """
        if not self.training:
            return x * (self.p + (1 - self.p) * sum(ALPHA_RANGE) / 2)
        forward, backward = self.factors(len(x), x)
        # The detached term changes the value from backward · x to forward · x and has no gradient.
        return backward * x + ((forward - backward) * x).detach()

    def factors(self, examples: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the factors of a minibatch's examples, forward and backward, (examples, 1, 1, 1) each.

        The numbers come from torch's global generator: b once per minibatch, α and β once per example, as in published
        implementations for CIFAR.

        Args:
            examples: Number of examples.
            like: Tensor whose device and type the factors get.
        """
        one, each = (1, 1, 1, 1), (examples, 1, 1, 1)
        intact = torch.rand(one, device=like.device) < self.p
        forward, backward = (
            torch.where(intact, 1.0, torch.empty(each, device=like.device).uniform_(*bounds)).to(like.dtype)
            for bounds in (ALPHA_RANGE, BETA_RANGE)
        )
        return forward, backward

    def extra_repr(self) -> str:
        """Return the probability, for printing."""
        return f"p={self.p}"


def survival_probability(block: int, blocks: int, last: float = 0.5) -> float:
    """Return the survival probability p_l of a block.

    It falls linearly from one at the input to p_L at the last block.

    Args:
        block: Index l of the block, from 1.
        blocks: Number L of blocks.
        last: Probability p_L of the last block.

    References:
        Huang et al., Deep networks with stochastic depth, ECCV 2016. ShakeDrop uses its linear decay.
    """
    return 1 - block / blocks * (1 - last)
