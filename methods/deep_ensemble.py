"""Deep ensembles, of any method."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.core.declarations import About, Batch, Need, Weights
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.sgd import SGD


class DeepEnsemble(Method):
    """Average the predictions of K runs that differ in their seed; nothing is trained but those runs.

    The ensemble of seed s combines the runs of the seeds s·K … s·K + K − 1, so that ensembles of different
    seeds share no member and their spread is not deflated.

    References:
        Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep ensembles,
        NeurIPS 2017 (without adversarial training).
    """

    space: ClassVar[dict[str, BaseDistribution]] = {"K": IntDistribution(2, 20)}
    about: ClassVar[About] = About("independent runs", "Lakshminarayanan et al. 2017", training="K", prediction="K")

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        K: Annotated[int, Field(ge=1)] = 5,
    ) -> None:
        """Combine `K` runs of the method `of`."""
        nn.Module.__init__(self)
        first = make_net.seed * K
        runs = [of(make_net.having(seed=seed), recipe) for seed in range(first, first + K)]
        self.runs = nn.ModuleList(runs)
        self.settle(runs[0].recipe, make_net.seed, epochs=0)

    @property
    def parts(self) -> list[Method]:
        """The methods that are combined."""
        return list(self.runs)  # type: ignore[arg-type]

    @property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network of the first run."""
        return self.parts[0].net

    def needs(self) -> list[Need]:
        """Ask for the finished runs."""
        return [Need(part.seed) for part in self.parts]

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Take the finished states, already prepared for prediction."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)

    def param_groups(self) -> list[dict[str, Any]]:
        """Train nothing."""
        return []

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network of the first run, or any member's by its weights."""
        return self.parts[0](x, weights)  # type: ignore[no-any-return]

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the members of every run."""
        return (weights for part in self.parts for weights in part.members())

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Do nothing: the runs were prepared when they finished."""

    def predict(self, x: Tensor) -> Tensor:
        """Give the logits of the members of every run, (K, B, C)."""
        return torch.cat([part.predict(x) for part in self.parts])
