"""Images that stay in their files until they are needed."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files that stand for images (N, 3, S, S) uint8; what is selected from them is files again.

    Attributes:
        folder: The folder that all files lie in or below.
        names: (N,) their paths in it, as bytes of one length: a million take tens of megabytes.
        side: S, the height and width to which they are decoded, in pixels.
        resized: Whether images of any size are cut and resized to S × S; else they must have that size.
    """

    folder: Path
    names: NDArray[np.bytes_]
    side: int
    resized: bool = True

    def __post_init__(self) -> None:
        if self.names.ndim != 1 or self.names.dtype.kind != "S":
            raise ValueError(f"names must be bytes (N,), found {self.names.dtype} {self.names.shape}")
        if self.side < 1:
            raise ValueError(f"{self.folder}: images must be decoded to at least 1 pixel, got image_size={self.side}")

    def __len__(self) -> int:
        """N."""
        return len(self.names)

    def __getitem__(self, which: slice | Tensor) -> Self:
        """The files of a slice or of a tensor of indices (M,), in that order."""
        return replace(self, names=self.names[which.cpu().numpy() if isinstance(which, Tensor) else which])

    @property
    def shape(self) -> torch.Size:
        """(N, 3, S, S), as if they were decoded."""
        return torch.Size((len(self), 3, self.side, self.side))

    def paths(self) -> list[str]:
        """The path of each file."""
        return [f"{self.folder}/{os.fsdecode(name)}" for name in self.names.tolist()]

    def to(self, device: torch.device | str) -> Self:
        """Themselves: files are on no device, and their batches come on the device of the labels."""
        return self


Images = Tensor | ImageFiles
"""(N, C, H, W) uint8, in memory or in files."""
