"""Plain training of one network: what every other method is measured against."""

from typing import ClassVar

from methods.base import About, Method
from methods.trunk import Sharing, Trunk


class SGD(Method):
    """Train one network by the recipe."""

    about: ClassVar[About] = About("plain training", "")
    sharing: ClassVar[Sharing] = Sharing(lambda method: Trunk(PLAIN, method.epochs))


PLAIN: str = f"sgd {SGD.version}"
"""The trunk of plain training."""
