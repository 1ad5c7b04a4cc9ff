"""Stochastic weight averaging, of any method."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from methods.core.declarations import About, Batch, Sharing
from methods.core.method import MakeMethod, Method
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.core.weight_averaging import Averaging, flat
from methods.core.wrapper import UNTIL_START, Collector
from methods.sgd import SGD

POINTS = "points or 6 if prediction == 'simplex' else 2 if prediction == 'pair' else 1"
"""How many networks of averaged weights predict."""


class SWA(Averaging):
    """Average the weights at the ends of the last epochs, at a high learning rate, into one network.

    Running statistics are re-estimated at the end with one pass over the training data for each network of averaged
    weights.

    References:
        Izmailov et al., Averaging weights leads to wider optima, UAI 2018, section 3, Algorithm 1 and its code's
        schedule; von Oswald et al., ICLR 2021, Algorithm 2 and appendix A (start at 160 of 200 epochs, rate 0.05).
        The ensembles are baselines of Wortsman et al., Learning neural network subspaces, ICML 2021, Figure 11.
    """

    about: ClassVar[About] = About(
        "weight averaging",
        "Izmailov et al. 2018",
        passes=f"0 if prediction == 'checkpoints' else {POINTS}",
        prediction=f"checkpoints if prediction == 'checkpoints' else {POINTS}",
    )
    sharing: ClassVar[Sharing] = UNTIL_START._replace(
        prediction=frozenset({"points", "alpha"}), prepared=("statistics",)
    )

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        of: MakeMethod = SGD,
        every: Literal["epoch", "step"] = "epoch",
        prediction: Literal["average", "checkpoints", "simplex", "point", "pair"] = "average",
        points: Annotated[int, Field(ge=1)] | None = None,
        alpha: tuple[float, ...] | None = None,
        **averaging: Any,
    ) -> None:
        """Average from epoch `start` on; the hyperparameters not named here are those of `Averaging`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            every: average the states at the ends of epochs, or the state after every "step" of the optimizer (von
                Oswald et al., Algorithm 2).
            prediction: predict with the "average"; with the ensemble of the `checkpoints`, each with the statistics
                it was trained with; with the ensemble of random points of the "simplex" between them; with the "point"
                alpha of it; or, of two checkpoints, with the "pair" of points alpha and the one opposite (Wortsman et
                al., Figure 18).
            points: how many points of the simplex, six if None; their weights are uniform, Dirichlet(1).
            alpha: the point's shares of the checkpoints, which sum to one; some may be negative.
            **averaging: the hyperparameters of `Averaging`.

        Raises:
            ValueError: for a prediction with checkpoints without a number of them, and for checkpoints or cycles,
                which end with an epoch, where every step counts.
        """
        super().__init__(make_net, recipe, of=of, **averaging)
        checkpoints = averaging.get("checkpoints")
        if prediction != "average" and checkpoints is None:
            raise ValueError(f"prediction={prediction} keeps the checkpoints: it needs their number, checkpoints=m")
        if points and prediction != "simplex":
            raise ValueError(f"points={points} is the number of random points; it needs prediction=simplex")
        if (alpha is not None) != (prediction in ("point", "pair")):
            raise ValueError(f"alpha={alpha}: prediction=point and prediction=pair need a place, others have none")
        if alpha is not None and (len(alpha) != checkpoints or abs(sum(alpha) - 1) > 1e-6):
            raise ValueError(f"alpha={alpha}: a place is checkpoints={checkpoints} shares that sum to one")
        if prediction == "pair" and checkpoints != 2:
            raise ValueError(f"prediction=pair: only a line, of checkpoints=2, has opposite points, not {checkpoints}")
        if every == "step" and (checkpoints is not None or self.rate == "cyclic"):
            raise ValueError("every=step averages all states alike: it goes with neither checkpoints nor rate=cyclic")
        self.every, self.prediction = every, prediction
        self.steps = 0
        if prediction != "average":
            self.snapshots.extend(self.copy_inner() for _ in self.ends)
        self.shares = [alpha, alpha[::-1]][: 1 if prediction == "point" else 2] if alpha else []
        self.visit_later(points or 6 if prediction == "simplex" else len(self.shares))

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Let the inner method take its step, and add it to the average if every step counts."""
        loss = super().update(batches, optimizer)
        if self.every == "step" and self.begun:
            self.steps += 1
            self.blend(self.average, 1.0 / self.steps)
        return loss

    def collect(self, i: int) -> None:
        """Add the state at the end of cycle i to the average, unless its steps are there already."""
        if self.every == "step":
            self.follow(self.average)
        else:
            super().collect(i)

    def predictors(self) -> Iterable[Method]:
        """Predict with the average, the checkpoints or points between them; at first with the inner method."""
        return Collector.predictors(self) if self.prediction == "checkpoints" else super().predictors()

    @property
    def ready(self) -> bool:
        """Whether enough is collected: for a place of its own, all checkpoints."""
        return self.taken >= (len(self.ends) if self.shares else 1)

    def point(self, i: int, mean: Tensor) -> Tensor:
        """Give a point of the simplex between the checkpoints; in mid-run, between those collected so far."""
        if self.shares:
            shares = torch.tensor(self.shares[i])
        else:
            shares = torch.empty(self.taken).exponential_(generator=self.generator(f"point {i}"))
            shares /= shares.sum()  # Dirichlet(1)
        place = torch.zeros_like(mean)
        for share, snapshot in zip(shares.tolist(), self.snapshots, strict=False):
            place.add_(flat(snapshot.parameters()), alpha=share)
        return place

    def get_extra_state(self) -> dict[str, int]:
        """Save how many steps were averaged, if steps are, with the epoch."""
        return super().get_extra_state() | ({"steps": self.steps} if self.every == "step" else {})

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Load the epoch and the number of steps."""
        super().set_extra_state(state)
        if self.every == "step":
            self.steps = state.get("steps", 0)  # a plain trunk has none
