"""SVHN (Street View house numbers), read by torchvision."""

from pathlib import Path

import torch
from torch import Tensor

from data.datasets.downloaded import check_images
from data.files.download import fetch


def load_svhn_test(root: Path) -> Tensor:
    """Load the 26,032 test images of SVHN, as an OOD dataset: (26032, 3, 32, 32) uint8.

    Args:
        root: Folder with `test_32x32.mat`; it is downloaded if it is missing.

    Raises:
        FileNotFoundError: If the file is missing and the download fails.
        ValueError: If the file is damaged.

    References:
        Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011.
    """
    from scipy.io.matlab import MatReadError
    from torchvision.datasets import SVHN

    root = root.expanduser()
    url, name, md5 = SVHN.split_list["test"]
    file = fetch(url, root / name, md5=md5)
    try:
        images = SVHN(root, split="test").data
    except (MatReadError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); remove the file, and get it again") from error
    return check_images(torch.from_numpy(images), str(file), channels=3, side=32)
