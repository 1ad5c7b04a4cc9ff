"""Late independent networks: one run is forked into K independent networks at T0."""

from typing import Any, ClassVar, Literal

from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_PHASE_SHARING
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.late_phase_full import LatePhaseFull


class LateIndependent(LatePhaseFull):
    """Fork one run into K independent networks at T0 ("late IE"), and predict with all of them.

    References:
        Sacramento et al., Economical ensembles with hypernetworks, 2020, Tables 3 and S2.
    """

    about: ClassVar[About] = LatePhaseFull.about._replace(
        family="economical hypernetwork ensembles", paper="Sacramento et al. 2020"
    )
    sharing: ClassVar[Sharing] = LATE_PHASE_SHARING
    divisible = True

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
        """Set the hyperparameters; those not named here are those of `LatePhaseFull`.

        Args:
            make_net: draws the networks.
            recipe: how a network is trained plainly.
            data: each network sees all data in an order of its own ("full"), or a part of an epoch ("shared").
            member_momentum: the networks' optimizer state at T0: a "copy" of the plain network's, or "fresh".
            prediction: predict with all "members", or with the network of their "average" weights.
            hyperparameters: those of `LatePhaseFull`.
        """
        super().__init__(
            make_net, recipe, data=data, member_momentum=member_momentum, prediction=prediction, **hyperparameters
        )
