"""ShakeDrop: random factors on the residual branches of a deep network, others forward than backward."""

import torch
from torch import Tensor, nn

ALPHA = (-1.0, 1.0)
BETA = (0.0, 1.0)
"""Ranges of the factors of a disturbed branch, forward and backward."""


class ShakeDrop(nn.Module):
    """Multiply a residual branch F(x) by b + α − bα; in the backward pass its gradient by b + β − bβ.

    b is one with probability p, and the branch is left alone; else it is disturbed by α ~ U[−1, 1] forward and by
    β ~ U[0, 1] backward. In evaluation mode the branch is multiplied by the expectation of its factor, p + (1 − p)E[α],
    which is p.

    Args:
        p: Probability of leaving the branch alone, in [0, 1].

    Raises:
        ValueError: If `p` is no probability.

    References:
        Yamada et al., ShakeDrop regularization for deep residual learning, IEEE Access 2019 (arXiv 1802.02375).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"ShakeDrop: p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The branch times its factor, of the shape of x.

        Args:
            x: The residual branch, (B, C, H, W).
        """
        if not self.training:
            return x * (self.p + (1 - self.p) * sum(ALPHA) / 2)
        forward, backward = self.factors(len(x), x)
        # The detached term moves the value from backward · x to forward · x and has no gradient of its own.
        return backward * x + ((forward - backward) * x).detach()

    def factors(self, examples: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of a minibatch's examples, forward and backward, (examples, 1, 1, 1) each.

        The numbers are drawn from torch's global generator: b once for the minibatch, α and β for every example, as
        published implementations for CIFAR do.

        Args:
            examples: How many.
            like: On whose device they are drawn, and whose type they get.
        """
        one, each = (1, 1, 1, 1), (examples, 1, 1, 1)
        intact = torch.rand(one, device=like.device) < self.p
        forward, backward = (
            torch.where(intact, 1.0, torch.empty(each, device=like.device).uniform_(*bounds)).to(like.dtype)
            for bounds in (ALPHA, BETA)
        )
        return forward, backward

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"p={self.p}"


def survival_probability(block: int, blocks: int, last: float = 0.5) -> float:
    """The probability p_l of a block, falling linearly from one at the input to p_L at the last block.

    Args:
        block: l, counted from 1.
        blocks: L.
        last: p_L.

    References:
        Huang et al., Deep networks with stochastic depth, ECCV 2016: its linear decay, which ShakeDrop takes over.
    """
    return 1 - block / blocks * (1 - last)
