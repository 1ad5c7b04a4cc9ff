"""Wide residual networks with pre-activation blocks (WRN-28-10 and its relatives)."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.grouped_linear import GroupedLinear
from models.packing import WHOLE, Packing


class Block(nn.Module):
    """A pre-activation block: BatchNorm and ReLU *before* each of two 3 x 3 convolutions, then the input is added."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, channels, H / stride, W / stride) of features (B, in_channels, H, W)."""
        active = F.relu(self.bn1(x), inplace=True)
        # A projection reads the activated input. An identity shortcut carries x itself.
        carried: Tensor = x if self.shortcut is None else self.shortcut(active)
        h = self.dropout(F.relu(self.bn2(self.conv1(active)), inplace=True))
        out: Tensor = carried + self.conv2(h)
        return out


class WideResNet(nn.Module):
    """Wide residual network WRN-d-k: three groups of (d - 4) / 6 blocks with 16k, 32k and 64k channels.

    Convolutions have no bias. Convolutions and the last layer have Kaiming-normal weights (fan in), and the last
    layer's bias starts at zero. WRN-28-10 has 36,479,194 parameters for 3 channels and 10 classes. As in the paper,
    dropout acts after BatchNorm and activation, before the second convolution of a block.

    Args:
        depth: Number of layers d, of the form 6n + 4.
        width: Widening factor k.
        in_channels: Channels of the input images.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels. Any size fits, because features are averaged.
        dropout: Probability of dropping a unit before a block's second convolution; 0 for no dropout modules.
        packing: Another factor on the channels of hidden layers, also of the first, and number of subnetworks.

    Raises:
        ValueError: If `depth` is not 6n + 4 with n at least 1, `width` is less than 1, or the channels do not fit
            `packing`.

    References:
        Zagoruyko & Komodakis, Wide residual networks, BMVC 2016, table 1 and section 2.4.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        in_channels: int,
        classes: int,
        image_size: int,
        dropout: float = 0.0,
        packing: Packing = WHOLE,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"wrn-{depth}-{width}: the depth must be 6n + 4 (10, 16, 22, 28, ...), for three groups of n "
                f"blocks with two convolutions each"
            )
        if width < 1:
            raise ValueError(f"wrn-{depth}-{width}: the width must be at least 1")
        channels = packing.channels(16)
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for stage, number in enumerate((16 * width, 32 * width, 64 * width)):
            out_channels = packing.channels(number)
            for index in range((depth - 4) // 6):
                stride = 2 if index == 0 and stage > 0 else 1
                self.blocks.append(Block(channels, out_channels, stride, dropout, packing.groups))
                channels = out_channels
        self.bn = nn.BatchNorm2d(channels)
        self.fc = packing.linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | GroupedLinear):
                packing.init_kaiming_normal(module)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        h = F.relu(self.bn(self.blocks(self.conv(x))), inplace=True)
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits
