"""PyramidNets for small images: residual networks whose width grows with every block, with ShakeDrop."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.packing import WHOLE, Packing
from models.shake_drop import ShakeDrop, survival_probability

STEM_CHANNELS = 16
"""Channels of the first convolution."""
BOTTLENECK_DEPTH = 164
"""Smallest depth with bottleneck blocks. The published network of 110 layers has basic blocks."""
EXPANSION = 4
"""Output channels of a bottleneck block, as a multiple of the channels of its 3 x 3 convolution."""


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, groups=groups, bias=False)


class Block(nn.Module):
    """A residual block that begins and ends with BatchNorm.

    It has no activation before the first convolution or after the sum.

    The shortcut has no weights. At stride 2 it averages over 2 x 2 pixels. Its new channels are zero.

    Args:
        in_channels: Channels of the input.
        width: Channels of the block's convolutions.
        stride: 1 or 2.
        bottleneck: Three convolutions, 1 x 1, 3 x 3 and 1 x 1, the last with four times the channels; else two 3 x 3.
        p: Probability that ShakeDrop leaves the branch unchanged.
        dropout: Probability of dropping a unit before the last convolution.
        groups: Number of subnetworks.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, *, bottleneck: bool, p: float, dropout: float, groups: int
    ) -> None:
        super().__init__()
        self.out_channels = width * EXPANSION if bottleneck else width
        self.stride = stride
        self.groups = groups
        # Deviation: the papers train without dropout. We drop units before the last convolution, as in wide residual
        # networks.
        drop = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        if bottleneck:
            layers = [_convolution(in_channels, width, 1, groups=groups), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [_convolution(width, width, 3, stride, groups), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [drop, _convolution(width, self.out_channels, 1, groups=groups)]
        else:
            layers = [_convolution(in_channels, width, 3, stride, groups), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [drop, _convolution(width, width, 3, groups=groups)]
        self.branch = nn.Sequential(nn.BatchNorm2d(in_channels), *layers, nn.BatchNorm2d(self.out_channels))
        self.shake_drop = ShakeDrop(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, out_channels, H / stride, W / stride) of features (B, in_channels, H, W)."""
        # Deviation: an odd side is rounded up, as in the strided convolution. The papers' sides are even.
        carried = F.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x
        branch = self.branch(x)
        if self.groups == 1:
            return self._add(branch, carried)
        # Each subnetwork draws its own factors, and its new channels come after its own old ones.
        pairs = zip(branch.chunk(self.groups, 1), carried.chunk(self.groups, 1), strict=True)
        return torch.cat([self._add(*pair) for pair in pairs], 1)

    def _add(self, branch: Tensor, carried: Tensor) -> Tensor:
        """Return the sum (B, c, h, w) of a branch (B, c, h, w) and the features (B, c' ≤ c, h, w) carried past it."""
        new_channels = branch.shape[1] - carried.shape[1]
        out: Tensor = self.shake_drop(branch) + F.pad(carried, (0, 0, 0, 0, 0, new_channels))
        return out


class PyramidNet(nn.Module):
    """PyramidNet with ShakeDrop: three groups of blocks whose channels grow by equal steps from 16 to 16 + alpha.

    The k-th of N blocks has 16 + k·alpha / N channels, rounded with halves up (the additive rule). There are n blocks
    in each group. Below depth 164, blocks are basic and the depth is 6n + 2. From 164 on, they are bottlenecks and the
    depth is 9n + 2. A name states only depth and alpha. Of the published networks, those of 110 layers have basic
    blocks, those of 164, 200, 236 and 272 layers bottlenecks.

    For 3 channels and 10 classes, pyramidnet-110-270 has 28,485,477 parameters and pyramidnet-272-200 has 26,210,842.
    The paper's table says 28.3 and 26.0 million.

    Args:
        depth: Number of layers.
        alpha: Widening factor: channels added from the first convolution to the last block.
        in_channels: Channels of the input images.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels. Any size fits, because features are averaged.
        dropout: Probability of dropping a unit before a block's last convolution; 0 for no dropout modules.
        packing: Factor on the rounded channels of hidden layers, and number of subnetworks.

    Raises:
        ValueError: If the depth does not have this form, `alpha` is less than 1, or the channels do not fit `packing`.

    References:
        Han et al., Deep pyramidal residual networks, CVPR 2017, section 2.1; widths are rounded as in its code. Yamada
        et al., ShakeDrop regularization for deep residual learning, IEEE Access 2019. The late-phase paper (von Oswald
        et al., ICLR 2021, Table 3) trains one whose depth and alpha it does not state.
    """

    def __init__(
        self,
        *,
        depth: int,
        alpha: int,
        in_channels: int,
        classes: int,
        image_size: int,
        dropout: float = 0.0,
        packing: Packing = WHOLE,
    ) -> None:
        super().__init__()
        bottleneck = depth >= BOTTLENECK_DEPTH
        layers = 9 if bottleneck else 6  # layers of one block in each of the three groups
        if depth < 8 or (depth - 2) % layers:
            raise ValueError(
                f"pyramidnet-{depth}-{alpha}: the depth must be 6n + 2 below {BOTTLENECK_DEPTH} (8, 14, ..., 110, "
                f"basic blocks), or 9n + 2 from there on (164, ..., 200, ..., 272, bottlenecks)"
            )
        if alpha < 1:
            raise ValueError(f"pyramidnet-{depth}-{alpha}: alpha must be at least 1")
        group = (depth - 2) // layers
        blocks = 3 * group
        channels = packing.channels(STEM_CHANNELS)
        self.conv = _convolution(in_channels, channels, 3)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential()
        for k in range(1, blocks + 1):
            width = packing.channels(STEM_CHANNELS + (2 * k * alpha + blocks) // (2 * blocks))
            stride = 2 if k in (group + 1, 2 * group + 1) else 1
            p = survival_probability(k, blocks)
            block = Block(channels, width, stride, bottleneck=bottleneck, p=p, dropout=dropout, groups=packing.groups)
            self.blocks.append(block)
            channels = width * EXPANSION if bottleneck else width
        self.last_bn = nn.BatchNorm2d(channels)
        self.fc = packing.linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                packing.init_kaiming_normal(module, "fan_out")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        h = F.relu(self.last_bn(self.blocks(self.bn(self.conv(x)))), inplace=True)
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits
