"""LeNet-5 with ReLU and BatchNorm, the small network of the late-phase paper."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.packing import WHOLE, Packing


def _paddings(image_size: int) -> tuple[int, int]:
    """Return the zero-padding of the two convolutions, in pixels, for square images of a side."""
    if image_size >= 32:
        return 0, 0
    # LeNet-5 was designed for 32 x 32 inputs. A 28 x 28 image is padded to that size, as LeCun et al. did.
    if image_size >= 28:
        return 2, 0
    # Deviation: for smaller images (8 x 8 digits) both convolutions are padded and keep their input's size.
    # Otherwise the second 5 x 5 kernel would be larger than its input.
    return 2, 2


class LeNet5(nn.Module):
    """Two 5 x 5 convolutions (6 and 16 channels) and fully connected layers of 120, 84 and `classes` units.

    Each hidden layer is followed by ReLU and then BatchNorm. After each convolution follows 2 x 2 max pooling.

    Args:
        in_channels: Channels of the input images.
        classes: Number of classes.
        image_size: Side of the square input images, in pixels; at least 4.
        dropout: Probability of dropping a unit of a hidden fully connected layer; 0 for no dropout modules.
        packing: Factor on the channels and units of hidden layers, and number of subnetworks.

    Raises:
        ValueError: If the images are too small for the second pooling, or the channels do not fit `packing`.

    References:
        LeCun et al., Gradient-based learning applied to document recognition, 1998; von Oswald et al., Neural
        networks with late-phase weights, ICLR 2021, appendix A ("Small ConvNet model").
    """

    def __init__(
        self, *, in_channels: int, classes: int, image_size: int, dropout: float = 0.0, packing: Packing = WHOLE
    ) -> None:
        super().__init__()
        first, second = _paddings(image_size)
        side = ((image_size + 2 * first - 4) // 2 + 2 * second - 4) // 2
        if side < 1:
            raise ValueError(f"lenet5 needs images of at least 4 x 4 pixels, got {image_size} x {image_size}")
        c1, c2, u1, u2 = (packing.channels(number) for number in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(in_channels, c1, 5, padding=first)
        self.bn1 = nn.BatchNorm2d(c1)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=second, groups=packing.groups)
        self.bn2 = nn.BatchNorm2d(c2)
        self.fc1 = packing.linear(c2 * side * side, u1)
        self.bn3 = nn.BatchNorm1d(u1)
        self.fc2 = packing.linear(u1, u2)
        self.bn4 = nn.BatchNorm1d(u2)
        self.fc3 = packing.linear(u2, classes)
        # Deviation: the paper uses no dropout here. We drop units after each hidden fully connected layer.
        self.dropout1: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.dropout2: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        # Deviation: max pooling replaces LeNet-5's trainable subsampling, and the second convolution reads all maps of
        # the first, not LeCun's selection of them. The late-phase paper does not say which it uses.
        h = F.max_pool2d(self.bn1(F.relu(self.conv1(x), inplace=True)), 2)
        h = F.max_pool2d(self.bn2(F.relu(self.conv2(h), inplace=True)), 2)
        h = h.flatten(1)  # (B, 16 * side * side), the features of a channel next to each other
        h = self.dropout1(self.bn3(F.relu(self.fc1(h), inplace=True)))
        h = self.dropout2(self.bn4(F.relu(self.fc2(h), inplace=True)))
        logits: Tensor = self.fc3(h)
        return logits
