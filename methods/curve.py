"""Learned curves between two networks in weight space."""

from typing import ClassVar

import torch
from torch import Tensor

from methods.core.declarations import Sharing
from methods.core.subspace import SUBSPACE_SHARING, Path


class Curve(Path):
    """Train a quadratic Bézier curve between ω_1 and ω_2, bent towards ω_3, which is one of the penalised pairs' too.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 3; Garipov et al., NeurIPS 2018.
    """

    sharing: ClassVar[Sharing] = SUBSPACE_SHARING
    m = 3

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Give ((1 − α)², α², 2α(1 − α))."""
        return torch.stack([(1 - alpha) ** 2, alpha**2, 2 * alpha * (1 - alpha)], -1)
