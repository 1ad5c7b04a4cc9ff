import pytest
import torch
from torch import nn

from models import build
from models.grouped_linear import GroupedLinear


def test_grouped_linear_is_a_block_diagonal_matrix():
    torch.manual_seed(0)
    layer = GroupedLinear(6, 9, 3).double()
    assert layer.weight.shape == (3, 3, 2)
    assert layer.bias.shape == (9,)
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight).T + layer.bias)
    assert repr(layer) == "GroupedLinear(in_features=6, out_features=9, groups=3)"


def test_grouped_linear_starts_as_torchs_linear_layers():
    torch.manual_seed(0)
    layer, alone = GroupedLinear(400, 1600, 4), nn.Linear(100, 400)
    for mine, theirs in ((layer.weight, alone.weight), (layer.bias, alone.bias)):
        assert 0.095 < mine.abs().max() <= 0.1
        assert mine.std().item() == pytest.approx(theirs.std().item(), rel=0.1)


def test_grouped_linear_with_several_weights_and_in_low_precision():
    torch.manual_seed(0)
    net = build("lenet5", in_channels=1, classes=6, image_size=8, width=2, groups=2).eval()
    x = torch.randn(2, 1, 8, 8)
    stacked = {key: torch.stack([value, value]) for key, value in net.state_dict().items()}
    outputs = torch.func.vmap(lambda w: torch.func.functional_call(net, w, (x,)))(stacked)
    torch.testing.assert_close(outputs[1], net(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert GroupedLinear(4, 2, 2)(torch.randn(3, 4)).dtype == torch.bfloat16  # as nn.Linear does


def test_grouped_linear_refuses_unequal_groups():
    with pytest.raises(ValueError, match="6 inputs and 9 outputs cannot both be divided equally among 2 groups"):
        GroupedLinear(6, 9, 2)
