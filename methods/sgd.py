"""Plain training of one network: the baseline of every other method."""

from typing import ClassVar

from methods.core.declarations import PLAIN_TRUNK, About, Sharing, Trunk
from methods.core.method import Method


class SGD(Method):
    """Train one network as the recipe says."""

    about: ClassVar[About] = About("plain training", "")
    sharing: ClassVar[Sharing] = Sharing(lambda method: Trunk(PLAIN_TRUNK, method.epochs))
    divisible = True
