"""Branched runs: K runs share their first epochs, then each sees the data in an order of its own."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.core.batch_norm import reestimate_each
from methods.core.declarations import About, Batch, Sharing
from methods.core.late_phase import LATE_PHASE_SHARING
from methods.core.layers import NamedBuffers, sum_in_layout
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe
from methods.late_phase_full import LatePhaseFull


class Branched(LatePhaseFull):
    """Train K runs that share their first epochs; then each sees the data in an order of its own.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, appendix H, Equation 18, Figure 21; Frankle et
        al., Linear mode connectivity and the lottery ticket hypothesis, ICML 2020.
    """

    about: ClassVar[About] = About(
        "learned subspaces",
        "Wortsman et al. 2021",
        training="start + K * (1 - start)",
        passes="(points or 5) if prediction == 'mixtures' else 0 if prediction == 'members' else 1",
        prediction="(points or 5) if prediction == 'mixtures' else K if prediction == 'members' else 1",
    )
    sharing: ClassVar[Sharing] = LATE_PHASE_SHARING._replace(
        prediction=frozenset({"prediction", "mixing", "points"}), prepared=("average", "mixtures")
    )
    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 10),
        "start": FloatDistribution(0.0, 0.9),
        "prediction": CategoricalDistribution(["average", "members"]),
    }
    version: ClassVar[int] = 1
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=2)] = 2,
        start: Position = 0.5,
        prediction: Literal["average", "members", "mixtures"] = "average",
        mixing: Literal["global", "layer", "weight"] | None = None,
        points: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        """Set the epoch at which the runs branch, and how they predict.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of runs.
            start: the epoch k at which they branch, or a fraction of all epochs.
            prediction: predict with the "average" of the runs' weights, with all runs as "members", or with random
                "mixtures" of their weights. The mixtures' mean single accuracy is the quantity of Equation 18.
            mixing: draw the coefficients of a mixture once for the network ("global", the default), for each "layer",
                or for each "weight". They are uniform among positive coefficients that sum to one.
            points: the number of mixtures. None: five.

        Raises:
            ValueError: for `mixing` or `points` without mixtures.
        """
        for name, given in (("mixing", mixing), ("points", points)):
            if given and prediction != "mixtures":
                raise ValueError(f"{name}={given} applies to random mixtures; it needs prediction=mixtures")
        super().__init__(
            make_net,
            recipe,
            K=K,
            start=start,
            data="full",
            member_momentum="copy",
            prediction="members" if prediction == "mixtures" else prediction,
        )
        self.mixing, self.points = mixing or "global", (points or 5) if prediction == "mixtures" else 0
        self.mixtures = nn.ModuleList(NamedBuffers(self.net.named_buffers()) for _ in range(self.points))

    def members(self) -> Iterable[dict[str, Tensor]]:
        """Return the runs, their average, or the mixtures, each with running statistics of its own."""
        if not self.begun or not self.points:
            return super().members()
        return (self.mixture(i) for i in range(self.points))

    def mixture(self, i: int) -> dict[str, Tensor]:
        """Return mixture i of the runs' weights, with random coefficients that depend on the seed and i."""
        generator = self.generator(f"mixture {i}")
        runs = [self.late_weights(k) for k in range(self.K)]
        coefficients: dict[str, Tensor] = {}
        mixed = {}
        for name, p in self.net.named_parameters():
            scope = {"global": "", "layer": name.rpartition(".")[0], "weight": name}[self.mixing]
            shape = p.shape if self.mixing == "weight" else ()
            if scope not in coefficients:
                draws = torch.empty(self.K, *shape).exponential_(generator=generator)
                coefficients[scope] = draws / draws.sum(0)
            mixed[name] = sum_in_layout([run[name] * a for a, run in zip(coefficients[scope].to(p), runs, strict=True)])
        return {**mixed, **self.mixtures[i].named()}  # type: ignore[operator]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate the running statistics of every mixture, or prepare the members or their average."""
        if not self.begun or not self.points:
            super().prepare(batches)
            return
        reestimate_each(self, batches, map(self.mixture, range(self.points)))
