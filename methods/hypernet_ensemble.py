"""Hypernetwork ensembles: members with embeddings of their own predict together."""

from typing import Annotated, Any, ClassVar, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from methods.core.declarations import About, Sharing
from methods.core.hypernetwork import HYPERNETWORK_SHARING, Hypernetwork, Ownership
from methods.core.random_streams import MakeNet
from methods.core.recipe import Position, Recipe


class HypernetEnsemble(Hypernetwork):
    """An economical ensemble: specialists with embeddings, BatchNorm and a last layer of their own predict together.

    The defaults are those of the best accuracy (Tables 1 and 2, under `swa(…)`). Those of the best detection of other
    data (Tables 3 and 4) are nested=False, sigma0=0.5, batch_norm=shared.

    References:
        Sacramento et al., Economical ensembles with hypernetworks, 2020.
    """

    about: ClassVar[About] = About("economical hypernetwork ensembles", "Sacramento et al. 2020", prediction="K")
    sharing: ClassVar[Sharing] = HYPERNETWORK_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 2
    space: ClassVar[dict[str, BaseDistribution]] = {
        "K": IntDistribution(2, 20),
        "start": FloatDistribution(0.0, 0.9),
        "sigma0": FloatDistribution(0.0, 1.0),
        "nested": CategoricalDistribution([True, False]),
    }

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
        """Set N (`K`), T0 (`start`; 0: from scratch, None: one specialist throughout) and σ (`sigma0`).

        The other arguments are those of `Hypernetwork`.
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
