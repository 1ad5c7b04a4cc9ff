"""How wide a network is, and how many independent subnetworks it consists of, as in Packed-Ensembles."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from models.grouped_linear import GroupedLinear


@dataclass(frozen=True)
class Packing:
    """A factor on a network's width, and a number of subnetworks side by side.

    The subnetworks share only the images. In every layer, block k of the channels belongs to subnetwork k. The first
    convolution maps the images to the channels of all subnetworks. All others are divided into groups, and so are
    linear layers.

    Args:
        width: Factor on the number of channels, or units, of every hidden layer.
        groups: Number of subnetworks.
        architecture: The network's name, for error messages.

    Raises:
        ValueError: If `width` is not a positive number, or `groups` is less than 1.

    References:
        Laurent et al., Packed-Ensembles for efficient uncertainty estimation, ICLR 2023, where `width` is called α and
        `groups` M.
    """

    width: float = 1.0
    groups: int = 1
    architecture: str = "this network"

    def __post_init__(self) -> None:
        if not 0 < self.width < math.inf:
            raise ValueError(f"{self.architecture}: width must be a positive number, got {self.width}")
        if self.groups < 1:
            raise ValueError(f"{self.architecture}: groups must be at least 1, got {self.groups}")

    def channels(self, number: int) -> int:
        """Return how many channels a hidden layer has that has `number` of them in the network as published.

        Raises:
            ValueError: If this is not a whole number of at least 1, or cannot be divided equally among the subnetworks.
        """
        scaled = number * self.width
        channels = round(scaled)
        if channels < 1 or not math.isclose(scaled, channels):
            raise ValueError(
                f"{self.architecture} with width={self.width:g}: a layer of {number} channels would have {scaled:g} "
                "of them, which must be a whole number of at least 1"
            )
        if channels % self.groups:
            raise ValueError(
                f"{self.architecture} with width={self.width:g} and groups={self.groups}: a layer of {channels} "
                f"channels cannot be divided equally among {self.groups} groups"
            )
        return channels

    def linear(self, in_features: int, out_features: int) -> nn.Linear | GroupedLinear:
        """Return a linear layer with bias, divided into groups if there are several subnetworks.

        Args:
            in_features: Number of inputs, of all subnetworks together.
            out_features: Number of outputs, of all subnetworks together.
        """
        if self.groups == 1:
            return nn.Linear(in_features, out_features)
        return GroupedLinear(in_features, out_features, self.groups)

    def init_kaiming_normal(
        self, layer: nn.Conv2d | nn.Linear | GroupedLinear, mode: Literal["fan_in", "fan_out"] = "fan_in"
    ) -> None:
        """Draw a layer's weights Kaiming normal for ReLU, each subnetwork's with the fan that it has on its own."""
        weight = layer.weight.detach()
        if isinstance(layer, GroupedLinear):
            weight = weight.flatten(0, 1)  # (out_features, in_features / groups)
        for part in weight.chunk(self.groups):
            nn.init.kaiming_normal_(part, mode=mode, nonlinearity="relu")


WHOLE = Packing()
"""A network as published: of its own width, and one network."""
