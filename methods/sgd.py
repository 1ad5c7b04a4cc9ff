"""Plain training of one network: what every other method is measured against."""

from typing import ClassVar

from methods.base import About, Method


class SGD(Method):
    """Train one network by the recipe."""

    about: ClassVar[About] = About("plain training", "")
