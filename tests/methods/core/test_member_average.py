"""The average of BatchNorm layers against the mean of their outputs."""

import torch
from torch import nn

from methods.core.member_average import collapse_batch_norms


def test_collapse_is_the_mean_of_the_layers_outputs():
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(5).eval() for _ in range(4)]
    for layer in layers:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.1, 3)
    one = nn.BatchNorm2d(5).eval()
    one.load_state_dict(collapse_batch_norms([layer.state_dict() for layer in layers], one.eps), strict=False)
    with torch.no_grad():
        x = torch.randn(7, 5, 3, 3)
        torch.testing.assert_close(one(x), torch.stack([layer(x) for layer in layers]).mean(0), rtol=0, atol=1e-6)


def test_one_layer_collapses_into_itself():
    """Its parameters too, so that noise on them means the same as on a plain network's."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(5).double()
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    layer.running_var.uniform_(0.1, 3)
    found = collapse_batch_norms([layer.state_dict()], layer.eps)
    for name, value in found.items():
        torch.testing.assert_close(value, layer.state_dict()[name], rtol=1e-12, atol=1e-12)
