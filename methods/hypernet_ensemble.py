"""Hypernetwork ensembles: members have their own embeddings, from which a shared hypernetwork makes their kernels."""

from typing import Annotated, Any, ClassVar, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing
from methods.core.hypernetwork import HYPERNETWORK_SHARING, Hypernetwork, Ownership
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe


class HypernetEnsemble(Hypernetwork):
    """Train and predict with K specialists that have their own embeddings, BatchNorm and last layer.

    The defaults are those of the best accuracy (Tables 1 and 2, there inside `swa(…)`). Those of the best
    out-of-distribution detection (Tables 3 and 4) are nested=False, sigma0=0.5, batch_norm=shared.

    References:
        Sacramento et al., Economical ensembles with hypernetworks, 2020.
    """

    about: ClassVar[About] = About("economical hypernetwork ensembles", "Sacramento et al. 2020", prediction="K")
    sharing: ClassVar[Sharing] = HYPERNETWORK_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 4
    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 20),
        "start": FloatDistribution(0.0, 0.9),
        "sigma0": FloatDistribution(0.0, 1.0),
        "nested": CategoricalDistribution([True, False]),
    }
    divisible = True

    def __init__(
        self,
        make_net: MakeNet,
        recipe: Recipe,
        *,
        K: Annotated[int, Field(ge=1)] = 10,
        start: Position | None = 0.6,
        sigma0: Annotated[float, Field(ge=0)] = 0.25,
        batch_norm: Ownership = "own",
        head_init: Literal["copy", "fresh"] = "fresh",
        prediction: Literal["average", "members"] = "members",
        **hyperparameters: Any,
    ) -> None:
        """Set the hyperparameters; those not named here are those of `Hypernetwork`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            K: the number of specialists, N in the paper.
            start: T0. 0: specialists from scratch. None: one specialist throughout.
            sigma0: standard deviation of the specialists' noise at T0, σ in the paper.
            batch_norm: each specialist's "own", or "shared".
            head_init: whether the last layers at T0 are drawn "fresh", or a "copy" of the plain network's.
            prediction: predict with all "members", or with the network of their "average" weights.
            hyperparameters: those of `Hypernetwork`.
        """
        super().__init__(
            make_net,
            recipe,
            K=K,
            start=start,
            sigma0=sigma0,
            batch_norm=batch_norm,
            head_init=head_init,
            prediction=prediction,
            **hyperparameters,
        )
