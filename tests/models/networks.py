"""What the tests of several networks share."""

from torch import nn


def count(net):
    """The number of a network's parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def spread(net):
    """Give BatchNorm other scales and shifts than one and zero, so that its place in the network matters."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return dict(net.double().named_parameters())
