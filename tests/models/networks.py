"""Functions for tests of networks."""

from torch import nn


def count(net):
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def spread(net):
    """Draw BatchNorm's scales and shifts at random, so that its position in the network matters."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return dict(net.double().named_parameters())
