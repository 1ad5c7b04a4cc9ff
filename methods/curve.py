"""Learned curve: train all networks on a quadratic curve in weight space."""

from typing import ClassVar

import torch
from torch import Tensor

from methods.core.declarations import Sharing
from methods.core.subspace import SUBSPACE_SHARING, PathSubspace


class Curve(PathSubspace):
    """Train all networks on a quadratic Bézier curve from ω_1 to ω_2, bent towards ω_3.

    The penalty on the squared cosine includes pairs with ω_3.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 3; Garipov et al., NeurIPS 2018.
    """

    sharing: ClassVar[Sharing] = SUBSPACE_SHARING
    divisible = True
    m = 3

    def coefficients(self, alpha: Tensor) -> Tensor:
        """Return ((1 − α)², α², 2α(1 − α))."""
        return torch.stack([(1 - alpha) ** 2, alpha**2, 2 * alpha * (1 - alpha)], -1)
