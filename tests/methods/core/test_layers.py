"""Copies of modules: the same as those of `copy.deepcopy`."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import models
from methods import METHODS
from methods.core.layers import copy_module
from tests.conftest import SETTINGS, build

NETS = {
    "wrn": lambda: models.build("wrn-10-1", in_channels=1, classes=3, image_size=8),
    "lenet": lambda: models.build("lenet5", in_channels=1, classes=3, image_size=8),
    "pyramid": lambda: models.build("pyramidnet-20-8", in_channels=3, classes=3, image_size=8),
    "lstm": lambda: models.build("lstm-8", in_channels=None, classes=5, image_size=None),
}


def layout(module: nn.Module) -> list[tuple[str, object]]:
    """Everything plain that a module and its parts hold."""
    plain = (int, float, str, bool, tuple, type(None))
    return [
        (f"{name}.{key}", value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, plain)
    ]


def assert_same(copied: nn.Module, wanted: nn.Module, source: nn.Module) -> None:
    assert type(copied) is type(source) and layout(copied) == layout(wanted)
    tensors, others = copied.state_dict(), source.state_dict()
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, others[name]) and value.stride() == others[name].stride(), name
            assert value.data_ptr() != others[name].data_ptr() or not value.numel(), name
    given = [(name, p.requires_grad) for name, p in source.named_parameters()]
    assert [(name, p.requires_grad) for name, p in copied.named_parameters()] == given


@pytest.mark.parametrize("name", NETS)
def test_networks(name):
    net = NETS[name]().to(memory_format=torch.channels_last)
    next(net.parameters()).requires_grad_(False)
    assert_same(copy_module(net), deepcopy(net), net)


@pytest.mark.parametrize("name", METHODS)
def test_methods(name, recipe):
    method = build(METHODS[name], recipe, **SETTINGS.get(name, {}))
    assert_same(copy_module(method), deepcopy(method), method)


def test_a_parameter_in_two_places_stays_one():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    copied = copy_module(net)
    assert copied[1].weight is copied[0].weight is not net[0].weight


def test_hooks_and_own_ways_of_copying_are_kept():
    class Counts:
        calls = 0

        def __call__(self, *_):
            type(self).calls += 1

        def __deepcopy__(self, memo):
            return self

    net, hook = nn.Sequential(nn.Linear(2, 2)), Counts()
    net.register_forward_pre_hook(hook)
    copy_module(net)(torch.zeros(1, 2))
    assert Counts.calls == 1


def test_a_lists_state_is_its_own():
    net = nn.Linear(2, 2)
    net.notes = [1]
    copied = copy_module(net)
    copied.notes.append(2)
    assert net.notes == [1] and copied.notes == [1, 2]


def test_meta_networks_keep_shapes_and_device():
    with torch.device("meta"):
        net = NETS["wrn"]()
    copied = copy_module(net)
    assert [(n, p.shape, p.device.type, p.requires_grad) for n, p in copied.named_parameters()] == [
        (n, p.shape, "meta", True) for n, p in net.named_parameters()
    ]
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in net.parameters()}
