"""Learned line: train all networks on a line in weight space."""

from typing import ClassVar

import torch
from torch import Tensor

from methods.core.declarations import Sharing
from methods.core.subspace import SUBSPACE_SHARING, PathSubspace


class Line(PathSubspace):
    """Train all networks on the line between two networks: P(α) = (1 − α)ω_1 + αω_2.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, Algorithm 1, Equations 2–4.
    """

    version: ClassVar[int] = 2
    sharing: ClassVar[Sharing] = SUBSPACE_SHARING
    divisible = True
    m = 2

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Return (1 − α, α)."""
        return torch.stack([1 - alpha, alpha], -1)
