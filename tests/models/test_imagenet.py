import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from torch import nn

from models import build
from models.imagenet import TORCHVISION_NETWORKS
from tests.models.networks import count, spread

PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
    "wide_resnet50_2": 68_883_240,
    "densenet161": 28_681_000,
}


def meta_network(name, classes=1000, image_size=224, **options):
    with torch.device("meta"):
        return build(name, **{"in_channels": 3, **options}, classes=classes, image_size=image_size)


@pytest.mark.parametrize("name", TORCHVISION_NETWORKS)
def test_parameters_are_torchvisions(name):
    """The parameters are equal in number, names and shapes, also with dropout."""
    assert count(meta_network(name)) == PUBLISHED[name]
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    for dropout in (0.0, 0.2):
        net = meta_network(name, dropout=dropout)
        assert {key: tensor.shape for key, tensor in net.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50-conv", 25_557_032 - 1000),
        ("wide_resnet50_2-conv", 68_883_240 - 1000),
        # without torchvision's last layer and its 7 x 7 convolution, with a 3 x 3 one and a layer of 200 classes
        ("tiny_resnet18", 11_689_512 - 513_000 - 64 * 3 * 40 + 513 * 200),
        ("tiny_resnet18-conv", 11_689_512 - 513_000 - 64 * 3 * 40 + 512 * 200),
        ("tiny_resnet50", 25_557_032 - 2_049_000 - 64 * 3 * 40 + 2049 * 200),
        ("tiny_resnet50-conv", 25_557_032 - 2_049_000 - 64 * 3 * 40 + 2048 * 200),
    ],
)
def test_parameter_count(name, parameters):
    assert count(meta_network(name, classes=200 if "tiny" in name else 1000)) == parameters


def test_counts_in_the_descriptions():
    assert count(meta_network("tiny_resnet18", classes=200)) == 11_271_432
    assert count(meta_network("tiny_resnet50", classes=200)) == 23_910_152


@pytest.mark.parametrize("name", ["resnet18", "densenet161"])
def test_forward_is_torchvisions(name):
    torch.manual_seed(0)
    net = build(name, in_channels=3, classes=5, image_size=32).eval()
    theirs = getattr(torchvision.models, name)(num_classes=5).eval()
    theirs.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x))


def test_the_stem_for_tiny_imagenet_keeps_the_images_size():
    torch.manual_seed(0)
    net = build("tiny_resnet18", in_channels=2, classes=5, image_size=16)
    w = {name: p.detach() for name, p in spread(net).items()}
    seen = []
    net.layer1.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    net.layer4.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.randn(2, 2, 16, 16, dtype=torch.float64)
    net(x)
    h = F.conv2d(x, w["conv1.weight"], padding=1)
    h = (h - h.mean((0, 2, 3), keepdim=True)) / (h.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
    h = F.relu(h * w["bn1.weight"].view(-1, 1, 1) + w["bn1.bias"].view(-1, 1, 1))
    torch.testing.assert_close(seen[0], h)
    assert seen[1].shape == (2, 512, 2, 2)


@pytest.mark.parametrize("name", ["resnet18", "densenet161", "tiny_resnet50-conv", "tiny_resnet50"])
def test_initial_values(name):
    """torchvision's residual networks use fan out; its DenseNet and the subspaces paper's networks use fan in."""
    torch.manual_seed(0)
    net = build(name, in_channels=1, classes=10, image_size=64)
    fan_in = name.endswith("conv") or name == "densenet161"
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions[0].in_channels == 1
    for layer in convolutions:
        fan = (layer.in_channels if fan_in else layer.out_channels) * layer.kernel_size[0] ** 2
        deviation = 5 * (2 * layer.weight.numel()) ** -0.5
        assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=deviation)


@pytest.mark.parametrize("name", ["resnet18", "tiny_resnet18-conv", "densenet161"])
def test_dropout_stands_before_the_last_layer(name):
    torch.manual_seed(0)
    net = build(name, in_channels=3, classes=5, image_size=32, dropout=0.5)
    seen = []
    last = net.classifier if name == "densenet161" else net.fc
    last.register_forward_hook(lambda _, args, __: seen.append(args[0].flatten(1)))
    (dropout,) = [module for module in net.eval().modules() if isinstance(module, nn.Dropout)]
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        net(x)
        dropout.train()
        net(x)
    features, dropped = (values[seen[0] > 0] for values in seen)
    kept = dropped > 0
    assert kept.float().mean() == pytest.approx(0.5, abs=2 / len(features) ** 0.5)
    torch.testing.assert_close(dropped[kept], 2 * features[kept])
    assert not any(isinstance(module, nn.Dropout) for module in meta_network(name).modules())


def test_small_images():
    assert build("resnet18", in_channels=1, classes=3, image_size=8).eval()(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    meta_network("densenet161", image_size=29)
    with pytest.raises(ValueError, match="halves its images five times and needs at least 29 x 29 pixels, got 28"):
        meta_network("densenet161", image_size=28)


def test_the_smallest_image_of_densenet():
    net = build("densenet161", in_channels=1, classes=3, image_size=29).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 1, 29, 29)).shape == (1, 3)
        with pytest.raises(RuntimeError):
            net(torch.randn(1, 1, 28, 28))
