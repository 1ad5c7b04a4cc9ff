"""Images that stay in files until they are needed."""

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
    """Image files that represent images (N, 3, S, S) uint8. Indexing them gives image files again.

    Attributes:
        folder: Folder that contains all files, directly or in subfolders.
        names: (N,) paths of the files in the folder, as bytes of equal length. A million take tens of megabytes.
        side: S, the height and width of the decoded images, in pixels.
        resized: Whether images of any size are cropped and resized to S × S; else each image must have that size.
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
        """Number of files, N."""
        return len(self.names)

    def __getitem__(self, which: slice | Tensor) -> Self:
        """Return the files of a slice or of a tensor of indices (M,), in that order."""
        return replace(self, names=self.names[which.cpu().numpy() if isinstance(which, Tensor) else which])

    @property
    def shape(self) -> torch.Size:
        """Shape of the decoded images, (N, 3, S, S)."""
        return torch.Size((len(self), 3, self.side, self.side))

    def paths(self) -> list[str]:
        """Return the path of each file."""
        return [f"{self.folder}/{os.fsdecode(name)}" for name in self.names.tolist()]

    def to(self, device: torch.device | str) -> Self:
        """Return these files themselves. Files are on no device; their batches are on the device of the labels."""
        return self


Images = Tensor | ImageFiles
"""(N, C, H, W) uint8, in memory or in files."""
