"""Plain training of one network: what every other method is measured against."""

from methods.base import Method


class SGD(Method):
    """Train one network by the recipe."""
