"""Plain training of one network: what every other method is measured against."""

from typing import ClassVar

from methods.core.declarations import PLAIN_TRUNK, About, Sharing, Trunk
from methods.core.method import Method


class SGD(Method):
    """Train one network by the recipe."""

    about: ClassVar[About] = About("plain training", "")
    sharing: ClassVar[Sharing] = Sharing(lambda method: Trunk(PLAIN_TRUNK, method.epochs))
