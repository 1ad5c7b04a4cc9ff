"""torchvision's DenseNet-161 with optional dropout. Importing it imports torchvision, which is slow."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import DenseNet


class DenseNet161(DenseNet):  # type: ignore[misc]
    """DenseNet-161: dense blocks of 6, 12, 36 and 24 layers, each of which adds 48 channels.

    Args:
        classes: Number of classes.
        dropout: Probability of dropping a unit before the last layer; 0 for no dropout modules.

    References:
        Huang et al., Densely connected convolutional networks, CVPR 2017, table 1.
    """

    def __init__(self, *, classes: int, dropout: float = 0.0) -> None:
        super().__init__(growth_rate=48, block_config=(6, 12, 36, 24), num_init_features=96, num_classes=classes)
        # Deviation: the paper drops units after every convolution, and only without augmentation. We drop them before
        # the last layer, as in our other networks for ImageNet.
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        h = F.relu(self.features(x)).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(h))
        return logits
