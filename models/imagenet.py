"""torchvision's networks for ImageNet, and residual networks for TinyImageNet.

A residual network ends in a linear layer or in a 1 x 1 convolution without bias. With the convolution, as in the
subspaces paper, all weights belong to convolutions or BatchNorm. All convolutions are then initialised Kaiming normal
by fan in, as in that paper's code. With the linear layer they are initialised by fan out, as in torchvision.
"""

from typing import Any, Literal

from torch import nn

from models.packing import WHOLE, Packing

Classifier = Literal["linear", "conv"]

TORCHVISION_NETWORKS = ("resnet18", "resnet50", "resnet152", "wide_resnet50_2", "densenet161")
"""Networks whose layers and parameter names are those of torchvision."""


def resnet18(**options: Any) -> nn.Module:
    """ResNet of 18 layers for ImageNet, torchvision's: 11,689,512 parameters."""
    return _resnet("resnet18", **options)


def resnet50(**options: Any) -> nn.Module:
    """ResNet of 50 layers for ImageNet, torchvision's: 25,557,032 parameters."""
    return _resnet("resnet50", **options)


def resnet152(**options: Any) -> nn.Module:
    """ResNet of 152 layers for ImageNet, torchvision's: 60,192,808 parameters."""
    return _resnet("resnet152", **options)


def wide_resnet50_2(**options: Any) -> nn.Module:
    """ResNet of 50 layers, twice as wide inside its blocks, for ImageNet, torchvision's: 68,883,240 parameters."""
    return _resnet("wide_resnet50_2", **options)


def tiny_resnet18(**options: Any) -> nn.Module:
    """ResNet of 18 layers for TinyImageNet, after a 3 x 3 convolution without pooling: 11,271,432 parameters."""
    return _resnet("resnet18", stem="tiny", **options)


def tiny_resnet50(**options: Any) -> nn.Module:
    """ResNet of 50 layers for TinyImageNet, after a 3 x 3 convolution without pooling: 23,910,152 parameters."""
    return _resnet("resnet50", stem="tiny", **options)


def densenet161(*, in_channels: int, classes: int, image_size: int, dropout: float = 0.0) -> nn.Module:
    """DenseNet of 161 layers for ImageNet, torchvision's: 28,681,000 parameters.

    Args:
        in_channels: Channels of the input images. If they are not 3, the first convolution is replaced.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels; at least 29.
        dropout: Probability of dropping a unit before the last layer; 0 for no dropout modules.

    Raises:
        ValueError: If the images are too small for the poolings.

    References:
        Huang et al., Densely connected convolutional networks, CVPR 2017.
    """
    if image_size < 29:
        raise ValueError(
            f"densenet161 halves its images five times and needs at least 29 x 29 pixels, got "
            f"{image_size} x {image_size}"
        )
    from models.densenet import DenseNet161

    net = DenseNet161(classes=classes, dropout=dropout)
    if in_channels != 3:
        first = nn.Conv2d(in_channels, 96, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(first.weight)
        net.features.conv0 = first
    return net


def _resnet(
    name: str,
    *,
    in_channels: int,
    classes: int,
    image_size: int,
    dropout: float = 0.0,
    classifier: Classifier = "linear",
    stem: Literal["imagenet", "tiny"] = "imagenet",
    packing: Packing = WHOLE,
) -> nn.Module:
    """Build one of torchvision's residual networks with another stem, width, dropout or classifier.

    Args:
        name: The network's name in torchvision.
        in_channels: Channels of the input images. If they are not 3, the first convolution is replaced.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels. Any size fits, because features are averaged.
        dropout: Probability of dropping a unit before the last layer; 0 for no dropout modules.
        classifier: The last layer: "linear", or a 1 x 1 convolution without bias, "conv".
        stem: "imagenet" divides the side by four before the first block. "tiny" keeps the side: it is a 3 x 3
            convolution with stride 1, without pooling.
        packing: Factor on the channels of hidden layers, and number of subnetworks.

    Raises:
        ValueError: If the channels do not fit `packing`.

    References:
        He et al., Deep residual learning for image recognition, CVPR 2016; Zagoruyko & Komodakis, Wide residual
        networks, BMVC 2016; Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic
        flow, NeurIPS 2020, whose code has the stem for TinyImageNet; Wortsman et al., Learning neural network
        subspaces, ICML 2021, appendix D, and its code.
    """
    import torchvision.models  # takes as long as torch itself

    net: Any = getattr(torchvision.models, name)(num_classes=classes)
    if stem == "tiny":
        net.conv1 = _first_convolution(in_channels, 3, stride=1, packing=packing)
        net.maxpool = nn.Identity()
    elif in_channels != 3 or packing != WHOLE:
        net.conv1 = _first_convolution(in_channels, 7, stride=2, packing=packing)
    if packing != WHOLE:
        _replace_hidden_layers(net, packing)
    if dropout > 0:
        # Deviation: none of the papers trains these networks with dropout. We drop units before the last layer. The
        # dropout is put into a layer without weights, so that all parameter names stay torchvision's.
        net.avgpool = nn.Sequential(net.avgpool, nn.Dropout(dropout))
    if classifier == "conv":
        width: int = net.fc.in_features
        last = nn.Conv2d(width, classes, 1, groups=packing.groups, bias=False)
        net.fc = nn.Sequential(nn.Unflatten(1, (width, 1, 1)), last, nn.Flatten())
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    adapted: nn.Module = net
    return adapted


def _first_convolution(in_channels: int, size: int, stride: int, packing: Packing) -> nn.Conv2d:
    """Return a first convolution to 64 channels times the width, initialised as in torchvision."""
    layer = nn.Conv2d(in_channels, packing.channels(64), size, stride=stride, padding=size // 2, bias=False)
    packing.init_kaiming_normal(layer, "fan_out")
    return layer


def _replace_hidden_layers(net: nn.Module, packing: Packing) -> None:
    """Replace all layers with weights but the first by packed ones, initialised as in torchvision.

    Args:
        net: One of torchvision's residual networks. Its first convolution, "conv1", is packed already.
        packing: Factor on the channels, and number of subnetworks.
    """
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Conv2d) and name != "conv1":
            before, after = packing.channels(layer.in_channels), packing.channels(layer.out_channels)
            size, stride = layer.kernel_size[0], layer.stride[0]
            packed = nn.Conv2d(before, after, size, stride, size // 2, groups=packing.groups, bias=False)
            packing.init_kaiming_normal(packed, "fan_out")
            net.set_submodule(name, packed)
        elif isinstance(layer, nn.BatchNorm2d):
            net.set_submodule(name, nn.BatchNorm2d(packing.channels(layer.num_features)))
        elif isinstance(layer, nn.Linear):
            net.set_submodule(name, packing.linear(packing.channels(layer.in_features), layer.out_features))
