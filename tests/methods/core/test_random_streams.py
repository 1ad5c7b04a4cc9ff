"""Random streams, and the networks drawn from them."""

import torch

from methods.core.random_streams import MakeNet, stream
from tests.conftest import TinyNet


def test_streams_are_functions_of_seed_purpose_and_epoch():
    def draw(*arguments):
        return torch.rand(3, generator=stream(*arguments)).tolist()

    assert draw(1, "alpha", 2) == draw(1, "alpha", 2)
    others = [draw(1, "alpha", 2), draw(2, "alpha", 2), draw(1, "beta", 2), draw(1, "alpha", 3)]
    assert len({tuple(values) for values in others}) == 4


def test_drawing_networks_is_reproducible_and_leaves_global_randomness_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    make = MakeNet(TinyNet, 4)
    first, second = make(), make(dropout=0.5)
    assert torch.equal(torch.rand(2), expected)
    again = MakeNet(TinyNet, 4)
    assert torch.equal(again().conv.weight, first.conv.weight)
    assert torch.equal(again().conv.weight, second.conv.weight)
    assert not torch.equal(first.conv.weight, second.conv.weight)
    assert not torch.equal(make.replace(seed=5)().conv.weight, first.conv.weight)
    assert torch.equal(MakeNet(TinyNet, 4).replace(dropout=0.5)().conv.weight, first.conv.weight)


def test_no_two_networks_of_a_seed_have_the_same_weights():
    make = MakeNet(TinyNet, 4)
    drawn = [make(), make.replace(dropout=0.5)(), make.replace(dropout=0.5).replace()(), make()]
    assert len({net.conv.weight.sum().item() for net in drawn}) == 4
    alike = MakeNet(TinyNet, 4)
    assert [net.conv.weight.sum() for net in drawn] == [alike().conv.weight.sum() for _ in drawn]
