"""Independent networks, forked late from one run."""

from typing import Any, ClassVar, Literal

from methods.core.declarations import About, Sharing
from methods.core.late_phase import LATE_SHARING
from methods.core.random_streams import MakeNet
from methods.core.recipe import Recipe
from methods.late_phase_full import LatePhaseFull


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
