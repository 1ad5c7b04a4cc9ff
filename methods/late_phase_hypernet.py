"""The embeddings of a hypernetwork as late-phase weights."""

from typing import ClassVar

from methods.core.declarations import About, Sharing
from methods.core.hypernetwork import HYPERNETWORK_SHARING, Hypernetwork
from methods.core.late_phase import LATE_PHASE_ABOUT


class LatePhaseHypernet(Hypernetwork):
    """Use a hypernetwork's embeddings, and the last layer, as late-phase weights; predict with their average.

    References:
        von Oswald et al., Neural networks with late-phase weights, ICLR 2021, section 2.2, appendix A, Table 7.
    """

    about: ClassVar[About] = LATE_PHASE_ABOUT
    sharing: ClassVar[Sharing] = HYPERNETWORK_SHARING
    fusible: ClassVar[bool] = True
    version: ClassVar[int] = 4
    divisible = True
