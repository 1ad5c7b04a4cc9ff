"""Whole networks in K copies, late in training: controls that are no longer economical in their weights."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field
from torch import Tensor, nn

from methods.base import About, Batch
from methods.batch_norm import reestimate_each
from methods.late_phase import LATE_PHASE, LATE_SHARING, LatePhase, tensors_of
from methods.layers import carries_state
from methods.named_buffers import NamedBuffers
from methods.recipe import Position, Recipe
from methods.streams import MakeNet
from methods.trunk import Sharing


class LatePhaseFull(LatePhase):
    """The whole network as late-phase weights: K networks, each of which sees every K-th minibatch.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 3.2 (late-phase deep ensemble).
    """

    about: ClassVar[About] = LATE_PHASE._replace(
        training="start + K * (1 - start) if data == 'full' else 1",
        passes="0 if prediction == 'members' or statistics in ('collapse', 'average') else 1",
    )
    sharing: ClassVar[Sharing] = LATE_SHARING
    space: ClassVar[dict[str, BaseDistribution]] = {name: LatePhase.space[name] for name in ("K", "start", "sigma0")}

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        statistics: Literal["collapse", "average", "reestimate"] | None = None,
        data: Literal["shared", "full"] = "shared",
        **hyperparameters: Any,
    ) -> None:
        """Copy all layers; the other arguments are those of `LatePhase`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            statistics: of the average network, as in `LatePhase`; None: "reestimate", for no member ever had the
                average network's activations.
            data: members share an epoch's minibatches ("shared"), or each sees all of them in an order of its own
                ("full").
            hyperparameters: of `LatePhase`.

        Raises:
            ValueError: for hyperparameters about shared weights.
        """
        shares = {"gamma_theta": 1.0, "frozen_base": False, **({"leftover": "step"} if data == "full" else {})}
        for name, default in shares.items():
            if hyperparameters.get(name, default) != default:
                raise ValueError(
                    f"{name}={hyperparameters[name]} is about weights that members share, and there are none"
                )
        average = hyperparameters.get("prediction", "average") == "average"
        super().__init__(
            make_net, recipe, statistics=statistics or ("reestimate" if average else "collapse"), **hyperparameters
        )
        if data == "full" and carries_state(self.net):
            raise ValueError(
                "every member would read the text in an order of its own, but this architecture carries its state from "
                "one minibatch to the next and has only one state"
            )
        self.data = data
        self.replicate([name for name, layer in self.net.named_modules() if tensors_of(layer)])

    def data_orders(self) -> int:
        """Read one order of the data for each member that sees all of it."""
        return self.K if self.begun and self.data == "full" else 1

    def turn(self, i: int) -> int:
        """Keep each member to its order of the data; sharing it, take turns as always."""
        return i if self.data == "full" else super().turn(i)


class LateIndependent(LatePhaseFull):
    """Fork one run into K independent networks at T0 ("late IE").

    References:
        Sacramento et al., Economical ensembles with hypernetworks, 2020, Tables 3 and S2.
    """

    about: ClassVar[About] = LatePhaseFull.about._replace(
        family="economical hypernetwork ensembles", paper="Sacramento et al. 2020"
    )
    sharing: ClassVar[Sharing] = LATE_SHARING

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        data: Literal["shared", "full"] = "full",
        member_momentum: Literal["fresh", "copy"] = "copy",
        prediction: Literal["average", "members"] = "members",
        **hyperparameters: Any,
    ) -> None:
        """Predict with all members, which go on from the trunk's momentum; the rest as `LatePhaseFull`."""
        super().__init__(
            make_net, recipe, data=data, member_momentum=member_momentum, prediction=prediction, **hyperparameters
        )


class Branched(LatePhaseFull):
    """Train K runs that share their first epochs and then see the data in orders of their own.

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
    sharing: ClassVar[Sharing] = LATE_SHARING._replace(
        prediction=frozenset({"prediction", "mixing", "points"}), prepared=("average", "mixtures")
    )
    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 10),
        "start": FloatDistribution(0.0, 0.9),
        "prediction": CategoricalDistribution(["average", "members"]),
    }

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
        """Branch at epoch k.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of runs.
            start: k, an epoch or a fraction of all epochs.
            prediction: with the "average" of the runs' weights, with all of them as "members", or with random
                "mixtures" of their weights, whose mean single accuracy is the figure of Equation 18.
            mixing: coefficients are drawn once for the network ("global", the default), for each "layer", or for
                each "weight"; uniformly among those that are positive and sum to one.
            points: the number of mixtures; None: five.

        Raises:
            ValueError: for `mixing` and `points` without mixtures.
        """
        for name, given in (("mixing", mixing), ("points", points)):
            if given and prediction != "mixtures":
                raise ValueError(f"{name}={given} is about random mixtures; it needs prediction=mixtures")
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
        """Give the runs, their average, or the mixtures, each with statistics of its own."""
        if not self.begun or not self.points:
            return super().members()
        return (self.mixture(i) for i in range(self.points))

    def mixture(self, i: int) -> dict[str, Tensor]:
        """Mix the runs' weights at random, with the i-th coefficients of the seed."""
        generator = self.generator(f"mixture {i}")
        runs = [self.late_weights(k) for k in range(self.K)]
        shares: dict[str, Tensor] = {}
        mixed = {}
        for name, p in self.net.named_parameters():
            scope = {"global": "", "layer": name.rpartition(".")[0], "weight": name}[self.mixing]
            shape = p.shape if self.mixing == "weight" else ()
            if scope not in shares:
                draws = torch.empty(self.K, *shape).exponential_(generator=generator)
                shares[scope] = draws / draws.sum(0)
            mixed[name] = torch.stack([a * run[name] for a, run in zip(shares[scope].to(p), runs, strict=True)]).sum(0)
        return {**mixed, **self.mixtures[i].named()}  # type: ignore[operator]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Re-estimate the statistics of every mixture."""
        if not self.begun or not self.points:
            super().prepare(batches)
            return
        reestimate_each(self, batches, map(self.mixture, range(self.points)))
