"""Soups: averages of runs that share a trunk; the runs themselves (`tail`)."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from optuna.distributions import BaseDistribution, IntDistribution
from pydantic import Field
from torch import Tensor

from methods import About, Batch, DeepEnsemble, MakeMethod, MakeNet, Method, Need, Recipe, average_members


class Tail(Method):
    """Go on from the middle of the plain run of seed 1000, in this seed's own order."""

    about = About("weight averaging", "Ramé et al. 2022")
    divisible = True

    def __init__(self, make_net: MakeNet, recipe: Recipe) -> None:
        """Train the second half of the recipe's epochs."""
        super().__init__(make_net, recipe)
        self.trunk_epochs = recipe.epochs // 2
        self.epochs = self.start_epoch = recipe.epochs - self.trunk_epochs

    def needs(self) -> list[Need]:
        """Ask for the trunk."""
        return [Need(seed=1000, epoch=self.trunk_epochs)]

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Take its weights."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in states[0].items() if k.startswith("net.")})

    def lr(self, epoch: float) -> float:
        """Give the rate of the recipe's second half."""
        return super().lr(self.trunk_epochs + epoch)


class Soup(DeepEnsemble):
    """Average the weights of K runs into one network.

    References:
        Wortsman et al., Model soups: averaging weights of multiple fine-tuned models, ICML 2022.
    """

    about = About("weight averaging", "Wortsman et al. 2022", training="0.5 + K * 0.5", passes="1")
    space: ClassVar[dict[str, BaseDistribution]] = {"K": IntDistribution(2, 4)}
    divisible = True

    def __init__(
        self, make_net: MakeNet, recipe: Recipe, *, of: MakeMethod = Tail, K: Annotated[int, Field(ge=1)] = 3
    ) -> None:
        """Average `K` runs of the method `of`."""
        super().__init__(make_net, recipe, of=of, K=K)

    def receive(self, states: Sequence[dict[str, Any]]) -> None:
        """Average the runs' weights into the first run's network."""
        super().receive(states)
        with torch.no_grad():
            for name, value in average_members(super().members(), self.net, {}).items():
                self.own_weights()[name].copy_(value)
        self.statistics_stale = True

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Give the average."""
        return [self.own_weights()]

    def predict(self, x: Tensor) -> Tensor:
        """Predict with the average."""
        return self.predict_with(x)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate statistics."""
        Method.prepare(self, batches)


METHODS = {"tail": Tail, "soup": Soup}
