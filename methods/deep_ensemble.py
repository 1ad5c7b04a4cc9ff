"""Deep ensembles of any method."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.core.declarations import About, Batch, Need, Weights
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import CONSTRUCTION, MakeNet, all_seeded, stream
from methods.core.recipe import Recipe
from methods.sgd import SGD


class DeepEnsemble(Method):
    """Average the predictions of K runs with different seeds; the ensemble itself trains nothing.

    The ensemble of seed s combines the runs of the seeds s·K … s·K + K − 1. Ensembles of different seeds therefore
    share no member, and their variance is not underestimated.

    References:
        Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation using deep ensembles,
        NeurIPS 2017 (without adversarial training).
    """

    space: ClassVar[dict[str, BaseDistribution]] = {"K": IntDistribution(2, 20)}
    about: ClassVar[About] = About("independent runs", "Lakshminarayanan et al. 2017", training="K", prediction="K")
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        K: Annotated[int, Field(ge=1)] = 5,
    ) -> None:
        """Build the methods of the runs.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method that the runs train.
            K: the number of runs.
        """
        nn.Module.__init__(self)
        first = make_net.seed * K
        runs = []
        for seed in range(first, first + K):
            with all_seeded(stream(seed, CONSTRUCTION)):  # as in the run of this seed
                runs.append(of(make_net.replace(seed=seed), recipe))
        self.runs = nn.ModuleList(runs)
        self.init_attributes(runs[0].recipe, make_net.seed, epochs=0)

    @property
    def run_methods(self) -> list[Method]:
        """The methods of the runs."""
        return list(self.runs)  # type: ignore[arg-type]

    @property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network of the first run."""
        return self.run_methods[0].net

    def needs(self) -> list[Need]:
        """Return the finished runs, whose seeds no other ensemble of K runs has."""
        K = len(self.runs)
        return [Need(seed) for seed in range(self.seed * K, (self.seed + 1) * K)]

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Load the finished states, which are prepared for prediction."""
        for method, state in zip(self.run_methods, states, strict=True):
            method.load_state_dict(state)

    def param_groups(self) -> list[dict[str, Any]]:
        """Return no groups, as nothing is trained."""
        return []

    def forward(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Run the network of the first run, or with the given weights of a member."""
        return self.run_methods[0](x, weights)  # type: ignore[no-any-return]

    def predict_with(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Predict as the first run does, with the given weights of a member."""
        return self.run_methods[0].predict_with(x, weights)

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Return the members of every run."""
        return (weights for method in self.run_methods for weights in method.members())

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Do nothing, as the runs were prepared when they finished."""

    def predict(self, x: Tensor) -> Tensor:
        """Return the logits of the members of every run, (K, B, C)."""
        return torch.cat([method.predict(x) for method in self.run_methods])
