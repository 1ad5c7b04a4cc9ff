"""The 20-layer residual network for small images ("cResNet20" of the subspaces paper)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.grouped_linear import GroupedLinear
from models.packing import WHOLE, Packing


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions with BatchNorm. The input is added before the last activation."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        # Deviation: no paper uses dropout in this network. We drop units between the convolutions.
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, groups=groups, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, channels, H / stride, W / stride) of features (B, in_channels, H, W)."""
        h = self.dropout(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x), inplace=True)


class CResNet20(nn.Module):
    """Residual network of 20 layers: three groups of three blocks with 16, 32 and 64 channels.

    Convolutions have no bias and Kaiming-normal weights, BatchNorm scales start at one, and a shortcut that
    changes the shape is a 1 x 1 convolution with BatchNorm. For 3 channels and 10 classes: 272,474 parameters.

    Args:
        in_channels: Channels of the input images.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels. Any size fits, because features are averaged.
        dropout: Probability of dropping a unit between a block's convolutions; 0 for no dropout modules.
        classifier: The last layer: "linear", with bias, or "conv", a 1 x 1 convolution without bias. With "conv", as
            in the subspaces paper's code, all weights belong to convolutions or BatchNorm.
        packing: Factor on the channels of hidden layers, and number of subnetworks.

    Raises:
        ValueError: If `classifier` is neither of the two, or the channels do not fit `packing`.

    References:
        He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2; Wortsman et al.,
        Learning neural network subspaces, ICML 2021; open_lth's code for initialisation and shortcuts.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        classes: int,
        image_size: int,
        dropout: float = 0.0,
        classifier: Literal["linear", "conv"] = "linear",
        packing: Packing = WHOLE,
    ) -> None:
        super().__init__()
        if classifier not in ("linear", "conv"):
            raise ValueError(f"cresnet20: classifier must be 'linear' or 'conv', got {classifier!r}")
        widths = [packing.channels(number) for number in (16, 32, 64)]
        width = widths[0]
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential()
        for stage, channels in enumerate(widths):
            for index in range(3):
                stride = 2 if index == 0 and stage > 0 else 1
                self.blocks.append(Block(width, channels, stride, dropout, packing.groups))
                width = channels
        # Deviation: the paper's classifier is the convolution. Our default is the linear layer of the original network,
        # because many methods treat the last linear layer separately.
        self.classifier: nn.Module = (
            packing.linear(width, classes)
            if classifier == "linear"
            else nn.Conv2d(width, classes, 1, groups=packing.groups, bias=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | GroupedLinear):
                packing.init_kaiming_normal(module)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        h = self.blocks(F.relu(self.bn(self.conv(x)), inplace=True))
        h = h.mean((2, 3))  # (B, 64)
        if isinstance(self.classifier, nn.Conv2d):
            h = h[:, :, None, None]
        logits: Tensor = self.classifier(h)
        return logits.flatten(1)
