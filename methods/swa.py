"""Stochastic weight averaging (SWA) of any method."""

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
from methods.core.weight_averaging import WeightAveraging, flatten
from methods.core.wrapper import SHARED_UNTIL_START, Collector
from methods.sgd import SGD

PREDICTION_COUNT = "points or 6 if prediction == 'simplex' else 2 if prediction == 'pair' else 1"
"""The number of networks with averaged weights that predict, as an expression of the hyperparameters."""


class SWA(WeightAveraging):
    """Average the weights at the ends of the last epochs, which have a high learning rate, into one network.

    Running statistics are re-estimated after training, in one pass over the training data for each network of averaged
    weights.

    References:
        Izmailov et al., Averaging weights leads to wider optima, UAI 2018, section 3, Algorithm 1 and its code's
        schedule; von Oswald et al., ICLR 2021, Algorithm 2 and appendix A (start at 160 of 200 epochs, rate 0.05).
        The ensembles are baselines of Wortsman et al., Learning neural network subspaces, ICML 2021, Figure 11.
    """

    about: ClassVar[About] = About(
        "weight averaging",
        "Izmailov et al. 2018",
        passes=f"0 if prediction == 'checkpoints' else {PREDICTION_COUNT}",
        prediction=f"checkpoints if prediction == 'checkpoints' else {PREDICTION_COUNT}",
    )
    sharing: ClassVar[Sharing] = SHARED_UNTIL_START._replace(
        prediction=frozenset({"points", "alpha"}), prepared=("statistics",)
    )
    version: ClassVar[int] = 3
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        every: Literal["epoch", "step"] = "epoch",
        prediction: Literal["average", "checkpoints", "simplex", "point", "pair"] = "average",
        points: Annotated[int, Field(ge=1)] | None = None,
        alpha: tuple[float, ...] | None = None,
        of: MakeMethod = SGD,
        **averaging: Any,
    ) -> None:
        """Set what is averaged and what predicts; hyperparameters not named here are those of `WeightAveraging`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            of: the method whose weights are averaged.
            every: average the state at the end of each "epoch", or after each "step" of the optimizer (von Oswald et
                al., Algorithm 2).
            prediction: which networks predict. "average": the average. "checkpoints": the collected states, each with
                the running statistics it was trained with. "simplex": random points of the simplex that the states
                span. "point": the point `alpha` of that simplex. "pair": for two states, the points `alpha` and 1 −
                `alpha` (Wortsman et al., Figure 18).
            points: the number of random points of the simplex. None: six. They are uniform, Dirichlet(1).
            alpha: the coefficients of the checkpoints at the point; they sum to one, and some may be negative.
            **averaging: hyperparameters of `WeightAveraging`.

        Raises:
            ValueError: for a prediction that needs checkpoints without their number; for `points` or `alpha` that do
                not fit the prediction; for checkpoints or cycles, which end with an epoch, where every step counts.
        """
        super().__init__(make_net, recipe, of=of, **averaging)
        checkpoints = averaging.get("checkpoints")
        if prediction != "average" and checkpoints is None:
            raise ValueError(f"prediction={prediction} keeps the checkpoints: it needs their number, checkpoints=m")
        if points and prediction != "simplex":
            raise ValueError(f"points={points} is the number of random points; it needs prediction=simplex")
        if (alpha is not None) != (prediction in ("point", "pair")):
            raise ValueError(f"alpha={alpha}: prediction=point and prediction=pair need alpha, others have none")
        if alpha is not None and (len(alpha) != checkpoints or abs(sum(alpha) - 1) > 1e-6):
            raise ValueError(f"alpha={alpha}: alpha has checkpoints={checkpoints} numbers, which sum to one")
        if prediction == "pair" and checkpoints != 2:
            raise ValueError(f"prediction=pair: only a line, of checkpoints=2, has opposite points, not {checkpoints}")
        if every == "step" and (checkpoints is not None or self.rate == "cyclic"):
            raise ValueError("every=step averages all states alike: it goes with neither checkpoints nor rate=cyclic")
        self.every, self.prediction = every, prediction
        self.steps = 0
        if prediction != "average":
            self.snapshots.extend(self.copy_inner() for _ in self.cycle_ends)
        self.prediction_alphas = [alpha, alpha[::-1]][: 1 if prediction == "point" else 2] if alpha else []
        self.allocate_points(points or 6 if prediction == "simplex" else len(self.prediction_alphas))

    def update(self, batches: Sequence[Batch], optimizer: Optimizer) -> Tensor:
        """Let the inner method take the step, and add the state to the average if every step counts."""
        loss = super().update(batches, optimizer)
        if self.every == "step" and self.begun:
            self.steps += 1
            self.move_weights_towards_inner(self.average, 1.0 / self.steps)
        return loss

    def collect(self, i: int) -> None:
        """Add the state at the end of cycle i to the average, unless its steps were added already."""
        if self.every == "step":
            self.copy_the_rest(self.average)
        else:
            super().collect(i)

    def predictors(self) -> Iterable[Method]:
        """Return the average, the checkpoints or the points; the inner method while too few states are collected."""
        return Collector.predictors(self) if self.prediction == "checkpoints" else super().predictors()

    @property
    def has_enough_states(self) -> bool:
        """Whether enough states are collected: all of them for given points, one otherwise."""
        return self.collected_count >= (len(self.cycle_ends) if self.prediction_alphas else 1)

    def point_weights(self, i: int, mean: Tensor) -> Tensor:
        """Return a point of the simplex that the states collected so far span; see `WeightAveraging`."""
        if self.prediction_alphas:
            alpha = torch.tensor(self.prediction_alphas[i])
        else:
            alpha = torch.empty(self.collected_count).exponential_(generator=self.generator(f"point {i}"))
            alpha /= alpha.sum()  # Dirichlet(1)
        weights = torch.zeros_like(mean)
        for coefficient, snapshot in zip(alpha.tolist(), self.snapshots, strict=False):
            weights.add_(flatten(snapshot.parameters()), alpha=coefficient)
        return weights

    def get_extra_state(self) -> dict[str, int]:
        """Return the epoch, and the number of averaged steps if every step counts."""
        return super().get_extra_state() | ({"steps": self.steps} if self.every == "step" else {})

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Load what `get_extra_state` returned."""
        super().set_extra_state(state)
        if self.every == "step":
            self.steps = state.get("steps", 0)  # the state of a plain trunk has none
