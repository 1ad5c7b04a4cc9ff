"""Temperature scaling of a method's pooled prediction."""

from typing import ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution
from torch import Tensor
from torch.nn import functional as F

from methods import SGD, About, MakeMethod, MakeNet, PreparationData, Recipe, Wrapper


class Temperature(Wrapper):
    """Pool the members' probabilities, then divide the logarithm by a temperature that fits held-out data.

    References:
        Guo et al., On calibration of modern neural networks, ICML 2017; Rahaman & Thiery, NeurIPS 2021.
    """

    about = About("calibration", "Guo et al. 2017")
    space: ClassVar[dict[str, BaseDistribution]] = {}
    watches = "validation"
    divisible = True
    prediction_only = True

    def __init__(
        self, make_net: MakeNet, recipe: Recipe, *, of: MakeMethod = SGD, pool: Literal["before", "after"] = "before"
    ) -> None:
        """Pool members before scaling, or scale each of them."""
        super().__init__(make_net, recipe, of)
        self.pool = pool
        self.register_buffer("log_T", torch.zeros(()))

    def raw(self, x: Tensor) -> Tensor:
        """Give what is scaled."""
        logits = super().predict(x)
        return logits.log_softmax(-1).exp().mean(0, keepdim=True).log() if self.pool == "before" else logits

    def prepare(self, batches: PreparationData) -> None:
        """Fit the temperature on held-out data."""
        super().prepare(batches)
        pairs = [(self.raw(x), y) for x, y in batches.held_out]
        logits, y = torch.cat([p for p, _ in pairs], dim=1), torch.cat([y for _, y in pairs])
        grid = torch.linspace(-2, 2, 401, device=logits.device)
        nll = torch.stack([F.nll_loss((logits / t.exp()).log_softmax(-1).exp().mean(0).log(), y) for t in grid])
        self.log_T.copy_(grid[nll.argmin()])

    def predict(self, x: Tensor) -> Tensor:
        """Scale."""
        return self.raw(x) / self.log_T.exp()
