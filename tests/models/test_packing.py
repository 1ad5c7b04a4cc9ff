import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from torch import nn

from models import architecture_names, build
from models.grouped_linear import GroupedLinear
from models.packing import Packing
from models.pyramidnet import PyramidNet
from models.shake_drop import ShakeDrop
from tests.models.networks import count, spread

CLASSES, SIZE = 3, 8

# (name, width, groups): each subnetwork has width / groups times the published channels
PACKED = [
    *[("lenet5", 2, 2), ("lenet5", 1, 2), ("cresnet20", 0.75, 3), ("cresnet20-conv", 1, 2), ("wrn-10-1", 2, 4)],
    *[("wrn-10-2", 0.5, 2), ("pyramidnet-14-12", 1, 2), ("pyramidnet-14-7", 3, 3), ("pyramidnet-164-9", 2, 2)],
    *[("tiny_resnet18", 1 / 8, 2), ("tiny_resnet18-conv", 1 / 4, 4), ("tiny_resnet50", 1 / 16, 2)],
    *[("tiny_resnet50-conv", 1 / 16, 2), ("resnet18", 1 / 8, 2), ("resnet50-conv", 1 / 16, 4)],
]


def make(name, width=1.0, groups=1, classes=CLASSES, seed=0, **options):
    torch.manual_seed(seed)
    text = {"in_channels": None, "image_size": None}
    size = text if "lstm" in name else {"in_channels": 3, "image_size": 32 if "densenet" in name else SIZE}
    return build(name, classes=classes * groups, width=width, groups=groups, **size, **options)


def images(n=6):
    return torch.randn(n, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def share(value, k, groups):
    """Return what belongs to subnetwork k of a packed network's parameter, buffer or gradient."""
    return value if value.ndim == 0 else value.chunk(groups)[k]


def subnetwork(net, k, name, width, groups):
    """Return subnetwork k of a packed network as a network of its own, with copied weights and buffers."""
    alone = make(name, width / groups, seed=1).double()
    packed, own = net.state_dict(), alone.state_dict()
    assert packed.keys() == own.keys()
    alone.load_state_dict({key: share(value, k, groups).view_as(own[key]) for key, value in packed.items()})
    return alone


@pytest.mark.long
@pytest.mark.parametrize(("name", "width", "groups"), PACKED)
def test_a_packed_network_is_its_subnetworks_side_by_side(name, width, groups):
    net = make(name, width, groups)
    spread(net)
    alone = [subnetwork(net, k, name, width, groups) for k in range(groups)]
    for module in (m for part in (net, *alone) for m in part.modules() if isinstance(m, ShakeDrop)):
        module.p = 1.0  # no noise in training
    x = images()
    for training in (True, False):  # evaluation uses the running statistics of training
        logits = net.train(training)(x).unflatten(1, (groups, CLASSES))
        for k, part in enumerate(alone):
            torch.testing.assert_close(logits[:, k], part.train(training)(x))
    for k, part in enumerate(alone):
        for key, own in part.named_buffers():
            torch.testing.assert_close(share(net.get_buffer(key), k, groups), own)


@pytest.mark.parametrize(("name", "width", "groups"), PACKED)
def test_subnetworks_do_not_see_each_other(name, width, groups):
    net = make(name, width, groups, dropout=0.1).double()
    for k in range(groups):
        net.zero_grad()
        logits = net(images()).unflatten(1, (groups, CLASSES))
        F.cross_entropy(logits[:, k], torch.arange(6) % CLASSES).backward()
        for key, parameter in net.named_parameters():
            for j in range(groups):
                assert share(parameter.grad, j, groups).any() == (j == k), (key, j, k)


def test_subnetworks_of_a_pyramidnet_draw_their_own_factors():
    net = make("pyramidnet-14-12", 1, 2)
    alone = subnetwork(net.double(), 0, "pyramidnet-14-12", 1, 2)
    twice = {key: torch.cat([own, own]) if own.ndim else own for key, own in alone.state_dict().items()}
    net.load_state_dict({key: twice[key].view_as(value) for key, value in net.state_dict().items()})
    first, second = net.eval()(images()).chunk(2, 1)
    torch.testing.assert_close(first, second)
    first, second = net.train()(images()).chunk(2, 1)
    assert not torch.allclose(first, second)


def sizes(net):
    """Return the numbers of outputs of all layers with weights, in their order."""
    outputs = {nn.Conv2d: "out_channels", nn.Linear: "out_features", GroupedLinear: "out_features"}
    outputs |= {nn.BatchNorm1d: "num_features", nn.BatchNorm2d: "num_features"}
    return [getattr(layer, outputs[type(layer)]) for layer in net.modules() if type(layer) in outputs]


PACKABLE = [name for name in architecture_names() if name not in ("lstm-UNITS", "densenet161")]
NUMBERS = {"wrn-DEPTH-WIDTH": "wrn-16-2", "pyramidnet-DEPTH-ALPHA": "pyramidnet-14-12"}


@pytest.mark.parametrize("name", [NUMBERS.get(name, name) for name in PACKABLE])
@pytest.mark.parametrize(("width", "groups"), [(3, 1), (0.5, 1), (2, 4)])
def test_width_multiplies_the_channels_of_every_hidden_layer(name, width, groups):
    with torch.device("meta"):
        plain, packed = make(name, classes=10), make(name, width, groups, classes=10)
    *hidden, last = sizes(plain)
    assert sizes(packed) == [*(width * channels for channels in hidden), last * groups]
    first, *others = [module for module in packed.modules() if isinstance(module, nn.Conv2d)]
    assert (first.in_channels, first.groups) == (3, 1)
    assert {layer.groups for layer in others} == {groups}
    assert any(isinstance(module, GroupedLinear) for module in packed.modules()) == (
        groups > 1 and not name.endswith("-conv")
    )
    assert list(packed.state_dict()) == list(plain.state_dict())


def test_parameters_shrink_with_the_groups():
    with torch.device("meta"):
        plain, packed = make("wrn-28-10", classes=10), make("wrn-28-10", 2, 4, classes=10)
    stem = 9 * 3 * 16
    features = 2 * sum(m.num_features for m in plain.modules() if isinstance(m, nn.BatchNorm2d))
    kernels = count(plain) - stem - features - 641 * 10
    # Kernels have 2 x 2 / 4 times the weights, the classifier 2 x 4 / 4 times: it has more outputs.
    assert count(packed) == kernels + 2 * (stem + features) + 2 * 6400 + 40


@pytest.mark.parametrize("name", ["lenet5", "cresnet20", "wrn-10-4", "pyramidnet-14-96", "tiny_resnet18", "resnet18"])
def test_initial_values_are_those_of_each_subnetwork(name):
    """A subnetwork's fans are its own: fan in for most, fan out for PyramidNet and torchvision's layers."""
    groups = 2
    net, alone = make(name, groups, groups, classes=40), make(name, classes=40, seed=1)
    for key, own in alone.named_parameters():
        if own.ndim > 1:
            for k in range(groups):
                part = share(net.get_parameter(key), k, groups)
                assert part.std().item() == pytest.approx(own.std().item(), rel=6 / own.numel() ** 0.5), key
    assert not torch.equal(*next(net.parameters()).chunk(2))


# --- without width and groups nothing changes -------------------------------------------------------------------


DEEP = ("resnet152", "wide_resnet50_2", "wide_resnet50_2-conv", "tiny_resnet50", "resnet50-conv")
"""Architectures that are built as smaller ones are."""


@pytest.mark.parametrize(
    "name", [{**NUMBERS, "lstm-UNITS": "lstm-5"}.get(name, name) for name in architecture_names() if name not in DEEP]
)
def test_width_one_and_one_group_change_nothing(name):
    size = {"in_channels": None, "image_size": None} if "lstm" in name else {"in_channels": 3, "image_size": 32}
    torch.manual_seed(0)
    without = build(name, classes=CLASSES, **size)
    after = torch.rand(1)
    torch.manual_seed(0)
    net = build(name, classes=CLASSES, width=1.0, groups=1, **size)
    assert torch.equal(torch.rand(1), after)  # equally many random numbers were drawn
    assert repr(net) == repr(without)
    check_equal(net, without)


def check_equal(net, other):
    """Check that two networks have the same weights and buffers in the same order, to the bit."""
    state, expected = net.state_dict(), other.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


@pytest.mark.parametrize("name", ["lenet5", "cresnet20", "cresnet20-conv", "wrn-10-1", "pyramidnet-14-7"])
def test_the_initial_weights_are_drawn_by_torchs_layers_and_then_anew(name):
    """The draws of an unpacked network, one after the other, to the bit."""
    net = make(name)
    redrawn = copy.deepcopy(net)
    torch.manual_seed(0)
    for module in redrawn.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for module in redrawn.modules():
        if name.startswith("pyramid") and isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if name.startswith(("cresnet", "wrn")) and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    if name.startswith(("wrn", "pyramid")):
        redrawn.fc.bias.data.zero_()
    check_equal(net, redrawn)


def test_the_initial_weights_of_residual_networks_are_torchvisions():
    net, tiny = make("resnet18"), make("tiny_resnet18")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=CLASSES)
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    check_equal(net, theirs)
    theirs.conv1 = stem
    check_equal(tiny, theirs)


# --- refusals ---------------------------------------------------------------------------------------------------

CANNOT = f"cannot be built with width or groups; these can: {', '.join(PACKABLE)}$"


@pytest.mark.parametrize("name", ["densenet161", "lstm-6"])
@pytest.mark.parametrize("options", [{"width": 2}, {"groups": 3}, {"width": 2, "groups": 2}])
def test_architectures_without_width_and_groups_refuse_them(name, options):
    with pytest.raises(ValueError, match=f"^{name} {CANNOT}"):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet5", {"width": 0.75}, "lenet5 with width=0.75: a layer of 6 channels would have 4.5 of them"),
        ("cresnet20", {"width": 0.3}, "cresnet20 with width=0.3: a layer of 16 channels would have 4.8 of them"),
        ("wrn-10-1", {"width": 0.01}, "a layer of 16 channels would have 0.16 of them, which must be a whole number"),
        ("pyramidnet-14-7", {"width": 0.5}, "pyramidnet-14-7 with width=0.5: a layer of 17 channels would have 8.5"),
        ("tiny_resnet18", {"width": 1.01}, "tiny_resnet18 with width=1.01: a layer of 64 channels would have 64.64"),
        ("lenet5", {"groups": 4}, "lenet5 with width=1 and groups=4: a layer of 6 channels cannot be divided equally"),
        ("wrn-10-1", {"width": 0.5, "groups": 3}, "a layer of 8 channels cannot be divided equally among 3 groups"),
        ("tiny_resnet50-conv", {"groups": 3}, "a layer of 64 channels cannot be divided equally among 3 groups"),
        ("cresnet20", {"width": -1}, "cresnet20: width must be a positive number, got -1"),
        ("cresnet20", {"width": float("nan")}, "width must be a positive number, got nan"),
    ],
)
def test_wrong_widths_and_groups(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


@pytest.mark.parametrize("groups", [0, -2])
def test_wrong_numbers_of_groups(groups):
    with pytest.raises(ValueError, match=f"wrn-10-1: groups must be at least 1, got {groups}"):
        build("wrn-10-1", in_channels=1, classes=10, image_size=8, groups=groups)


@pytest.mark.parametrize("name", ["cresnet20", "cresnet20-conv", "tiny_resnet18-conv"])
def test_classes_that_cannot_be_divided(name):
    with pytest.raises(ValueError, match=f"{name}: 10 classes cannot be divided equally among 4 groups"):
        build(name, in_channels=1, classes=10, image_size=8, groups=4)


def test_widths_that_floats_cannot_hold_exactly():
    assert Packing(width=0.7).channels(10) == 7
    assert Packing(width=1 / 3, groups=16).channels(48) == 16
    with pytest.raises(ValueError, match="this network with width=0.7: a layer of 16 channels would have 11.2"):
        PyramidNet(depth=14, alpha=4, in_channels=1, classes=3, image_size=8, packing=Packing(0.7))
