import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods.core.layers import last_layer
from models import MODELS, architecture_names, build, describe_architectures
from models.resnet import CResNet20
from tests.models.networks import count, spread

# (name, channels, classes, image size, parameters)
COUNTS = [
    ("lenet5", 3, 10, 32, 62_458),
    ("lenet5", 1, 10, 28, 62_158),
    ("lenet5", 1, 10, 8, 21_838),
    ("cresnet20", 3, 10, 32, 272_474),
    ("cresnet20-conv", 3, 10, 32, 272_464),
    ("wrn-28-10", 3, 10, 32, 36_479_194),
    ("wrn-28-10", 3, 100, 32, 36_536_884),
    ("wrn-16-2", 3, 10, 32, 691_674),
]
SMALL = [
    *[("lenet5", 8), ("lenet5", 28), ("lenet5", 32), ("cresnet20", 8), ("cresnet20-conv", 8), ("wrn-10-1", 8)],
    *[("wrn-10-2", 32), ("pyramidnet-14-7", 8), ("pyramidnet-8-12", 7), ("tiny_resnet18", 16), ("resnet18", 32)],
]


@pytest.mark.parametrize(("name", "channels", "classes", "size", "parameters"), COUNTS)
def test_parameter_count(name, channels, classes, size, parameters):
    with torch.device("meta"):
        net = build(name, in_channels=channels, classes=classes, image_size=size)
    assert count(net) == parameters


def wide_resnet_count(depth, width, classes):
    """Sum the parameters of a wide residual network for three channels, layer by layer."""
    blocks = (depth - 4) // 6
    channels = [16, 16 * width, 32 * width, 64 * width]
    total = 9 * 3 * 16 + 2 * channels[-1] + (channels[-1] + 1) * classes  # stem, last BatchNorm, classifier
    for before, c in itertools.pairwise(channels):
        first = 2 * before + 9 * before * c + 2 * c + 9 * c * c + before * c * (before != c or c > 16 * width)
        total += first + (blocks - 1) * (2 * (2 * c + 9 * c * c))
    return total


@pytest.mark.parametrize(("depth", "width"), [(28, 10), (28, 14), (28, 18), (16, 1), (40, 2)])
@pytest.mark.parametrize("classes", [10, 100])
def test_parameter_count_of_any_wide_resnet(depth, width, classes):
    with torch.device("meta"):
        net = build(f"wrn-{depth}-{width}", in_channels=3, classes=classes, image_size=32)
    assert count(net) == wide_resnet_count(depth, width, classes)


@pytest.mark.parametrize(("name", "size"), SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_and_a_gradient_for_every_parameter(name, size, channels):
    torch.manual_seed(0)
    net = build(name, in_channels=channels, classes=7, image_size=size, dropout=0.1)
    x = torch.randn(4, channels, size, size).contiguous(memory_format=torch.channels_last)
    logits = net(x)
    assert logits.shape == (4, 7)
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, torch.arange(4)).backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    # A bias right before BatchNorm would have no effect; here it comes after an activation, so all have one.
    assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())


@pytest.mark.parametrize(("name", "size"), SMALL)
def test_functional_call_equals_the_forward(name, size):
    net = build(name, in_channels=1, classes=3, image_size=size).eval()
    x = torch.randn(2, 1, size, size)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    assert torch.equal(torch.func.functional_call(net, weights, (x,)), net(x))
    vmapped = torch.func.vmap(lambda w: torch.func.functional_call(net, w, (x,)))
    stacked = {key: torch.stack([value, value]) for key, value in weights.items()}
    torch.testing.assert_close(vmapped(stacked)[1], net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lenet5", "cresnet20", "wrn-10-1", "pyramidnet-8-4", "tiny_resnet18-conv"])
def test_weights_follow_the_global_seed(name):
    def draw(seed):
        torch.manual_seed(seed)
        return build(name, in_channels=1, classes=10, image_size=8).state_dict()

    first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[("lenet5", 2), ("cresnet20", 9), ("cresnet20-conv", 9), ("wrn-10-1", 3), ("wrn-16-1", 6)],
        *[("pyramidnet-14-4", 6), ("resnet18", 1), ("tiny_resnet18-conv", 1)],
    ],
)
def test_dropout_modules_exist_only_when_asked_for(name, expected):
    def drops(p):
        net = build(name, in_channels=1, classes=10, image_size=8, dropout=p)
        return [module for module in net.modules() if isinstance(module, nn.Dropout)]

    assert drops(0.0) == []
    assert [module.p for module in drops(0.3)] == [0.3] * expected


@pytest.mark.parametrize("name", ["lenet5", "cresnet20", "wrn-10-1", "pyramidnet-8-4", "tiny_resnet18-conv"])
def test_dropout_changes_neither_weights_nor_names_nor_evaluation(name):
    torch.manual_seed(0)
    plain = build(name, in_channels=1, classes=10, image_size=8)
    torch.manual_seed(0)
    dropped = build(name, in_channels=1, classes=10, image_size=8, dropout=0.5)
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(plain.eval()(x), dropped.eval()(x))
    assert not torch.equal(dropped.train()(x), dropped(x))


def seen_by(module, net, x):
    """Return the input that a module of the network receives."""
    seen = []
    handle = module.register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))
    net(x)
    handle.remove()
    return seen[0]


def test_dropout_stands_right_before_the_second_convolution():
    net = build("wrn-10-1", in_channels=1, classes=10, image_size=8, dropout=0.5)
    block = net.blocks[0]
    dropped = seen_by(block.conv2, net, torch.randn(16, 1, 8, 8))
    # Behind BatchNorm and activation about half of the values are zero, and dropout zeroes half of the rest.
    assert (dropped == 0).float().mean() == pytest.approx(0.75, abs=0.05)
    assert (dropped >= 0).all()
    block = build("cresnet20", in_channels=1, classes=10, image_size=8, dropout=0.5).blocks[0]
    dropped = seen_by(block.conv2, block, torch.randn(16, 16, 8, 8))
    assert (dropped == 0).float().mean() == pytest.approx(0.75, abs=0.05)
    net = build("lenet5", in_channels=1, classes=10, image_size=8, dropout=0.5)
    assert (seen_by(net.fc3, net, torch.randn(16, 1, 8, 8)) == 0).float().mean() == pytest.approx(0.5, abs=0.06)


def bn(x, weights, name):
    """Compute BatchNorm with the statistics of the batch, from the definition."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return (x - mean) / (var + 1e-5).sqrt() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def test_wide_resnet_is_pre_activation():
    torch.manual_seed(0)
    net = build("wrn-16-2", in_channels=3, classes=5, image_size=16)
    w = spread(net)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    h = F.conv2d(x, w["conv.weight"], padding=1)
    for i, stride in enumerate([1, 1, 2, 1, 2, 1]):
        active = F.relu(bn(h, w, f"blocks.{i}.bn1"))
        inner = F.conv2d(active, w[f"blocks.{i}.conv1.weight"], stride=stride, padding=1)
        inner = F.conv2d(F.relu(bn(inner, w, f"blocks.{i}.bn2")), w[f"blocks.{i}.conv2.weight"], padding=1)
        projection = w.get(f"blocks.{i}.shortcut.weight")
        assert (projection is not None) == (i % 2 == 0)
        h = inner + (h if projection is None else F.conv2d(active, projection, stride=stride))
    h = F.relu(bn(h, w, "bn")).mean((2, 3))
    torch.testing.assert_close(net(x), h @ w["fc.weight"].T + w["fc.bias"])


def test_cresnet20_is_post_activation():
    torch.manual_seed(0)
    net = build("cresnet20", in_channels=3, classes=5, image_size=8)
    w = spread(net)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    h = F.relu(bn(F.conv2d(x, w["conv.weight"], padding=1), w, "bn"))
    for i in range(9):
        name, stride = f"blocks.{i}", 2 if i in (3, 6) else 1
        inner = F.conv2d(h, w[f"{name}.conv1.weight"], stride=stride, padding=1)
        inner = F.conv2d(F.relu(bn(inner, w, f"{name}.bn1")), w[f"{name}.conv2.weight"], padding=1)
        if stride == 2:
            h = bn(F.conv2d(h, w[f"{name}.shortcut.0.weight"], stride=2), w, f"{name}.shortcut.1")
        h = F.relu(bn(inner, w, f"{name}.bn2") + h)
    torch.testing.assert_close(net(x), h.mean((2, 3)) @ w["classifier.weight"].T + w["classifier.bias"])


@pytest.mark.parametrize(("size", "paddings"), [(32, (0, 0)), (28, (2, 0)), (8, (2, 2))])
def test_lenet_normalises_after_each_activation(size, paddings):
    torch.manual_seed(0)
    net = build("lenet5", in_channels=1, classes=4, image_size=size)
    w = spread(net)
    x = h = torch.randn(5, 1, size, size, dtype=torch.float64)
    for i, padding in enumerate(paddings, start=1):
        h = F.conv2d(h, w[f"conv{i}.weight"], w[f"conv{i}.bias"], padding=padding)
        h = F.max_pool2d(bn(F.relu(h), w, f"bn{i}"), 2)
    h = h.flatten(1)
    for i in (1, 2):
        h = F.relu(h @ w[f"fc{i}.weight"].T + w[f"fc{i}.bias"])
        h = bn(h[:, :, None, None], w, f"bn{i + 2}").flatten(1)
    torch.testing.assert_close(net(x), h @ w["fc3.weight"].T + w["fc3.bias"])


def test_initial_values():
    torch.manual_seed(0)
    for name in ("cresnet20", "wrn-16-4"):
        net = build(name, in_channels=3, classes=10, image_size=32)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is None
                fan_in = module.weight[0].numel()
                deviation = 4 * (2 * module.weight.numel()) ** -0.5  # four standard errors, relative
                assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=deviation)
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()
    assert (net.fc.bias == 0).all()


@pytest.mark.parametrize("name", ["cresnet20", "tiny_resnet18", "tiny_resnet50", "resnet50", "wide_resnet50_2"])
def test_convolutional_classifier_of_the_subspaces_paper(name):
    """The convolution equals the linear layer without bias."""
    torch.manual_seed(0)
    size = {"in_channels": 3, "classes": 10, "image_size": 32}
    linear, conv = build(name, **size).eval(), build(f"{name}-conv", **size).eval()
    assert not any(isinstance(module, nn.Linear) for module in conv.modules())
    assert count(conv) == count(linear) - 10
    weights = dict(linear.state_dict())
    head = weights.pop(f"{last_layer(linear)}.weight")
    del weights[f"{last_layer(linear)}.bias"]
    conv.load_state_dict({**weights, f"{last_layer(conv)}.weight": head[:, :, None, None]})
    linear.get_submodule(last_layer(linear)).bias.data.zero_()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), linear(x))


def test_wrong_classifier():
    with pytest.raises(ValueError, match="classifier must be 'linear' or 'conv'"):
        CResNet20(in_channels=3, classes=10, image_size=32, classifier="other")


def test_names():
    names = "lenet5 cresnet20 cresnet20-conv wrn-DEPTH-WIDTH pyramidnet-DEPTH-ALPHA tiny_resnet18 tiny_resnet18-conv"
    names += " tiny_resnet50 tiny_resnet50-conv resnet18 resnet50 resnet50-conv resnet152 wide_resnet50_2"
    names += " wide_resnet50_2-conv densenet161 lstm-UNITS"
    assert architecture_names() == names.split()
    assert {name.split("-")[0] for name in names.split()} == set(MODELS)


def test_every_architecture_is_described_in_a_line():
    for name, line in describe_architectures().items():
        assert re.fullmatch(r"[A-Z].{20,110}\.", line), name


NUMBERS = {"wrn-DEPTH-WIDTH": "wrn-10-1", "pyramidnet-DEPTH-ALPHA": "pyramidnet-8-4", "lstm-UNITS": "lstm-6"}


@pytest.mark.parametrize("name", architecture_names())
def test_every_name_builds_a_network_whose_last_layer_has_the_classes(name):
    size = {"in_channels": None, "image_size": None} if "lstm" in name else {"in_channels": 3, "image_size": 64}
    with torch.device("meta"):
        net = build(NUMBERS.get(name, name), classes=11, **size)
    assert len(net.get_submodule(last_layer(net)).weight) == 11


@pytest.mark.parametrize("name", [name for name in architecture_names() if "lstm" not in name])
def test_networks_for_images_refuse_text(name):
    name = NUMBERS.get(name, name)
    with pytest.raises(ValueError, match=f"^{name} reads images; the data are text, rows of symbols$"):
        build(name, in_channels=None, classes=10, image_size=None)


def test_networks_for_text_refuse_images():
    with pytest.raises(ValueError, match="^lstm-6 reads text, rows of symbols; the data are images of 8 x 8 pixels$"):
        build("lstm-6", in_channels=1, classes=10, image_size=8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet", r"known are lenet5, cresnet20, cresnet20-conv, wrn-DEPTH-WIDTH, .*; did you mean 'lenet5'\?"),
        ("resnet18-conv", "unknown architecture"),  # no paper has it
        ("lenet5-conv", "unknown architecture"),
        ("tiny-resnet18", "did you mean 'tiny_resnet18'"),
        ("densenet", "did you mean 'densenet161'"),
        ("lstm", "lstm needs its units, for example 'lstm-500'"),
        ("pyramidnet-110", "pyramidnet needs its depth and alpha, for example 'pyramidnet-110-270'"),
        ("resnet20", "did you mean 'cresnet20'"),
        ("mlp", "known are lenet5"),
        ("wrn", "needs its depth and width, for example 'wrn-28-10'"),
        ("wrn-28", "needs its depth and width"),
        ("wrn-28-ten", "needs its depth and width"),
        ("wrn-12-1", r"wrn-12-1: the depth must be 6n \+ 4"),
        ("wrn-4-1", r"wrn-4-1: the depth must be 6n \+ 4"),
        ("wrn-10-0", "the width must be at least 1"),
        ("cresnet20-4", "unknown architecture"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=message):
        build(name, in_channels=3, classes=10, image_size=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 3}, "at least 4 x 4 pixels, got 3 x 3"),
        ({"dropout": 1.0}, r"lenet5: dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
    ],
)
def test_wrong_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        build("lenet5", **{"in_channels": 1, "classes": 10, "image_size": 8, **change})
