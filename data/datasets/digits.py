"""Scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels. Training takes seconds on a CPU."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.tasks.image_dataset import Augmentation, ImageDataset, Split
from data.tasks.split_dataset import stratified_order

_SPLIT_SEED = 1797
_TRAIN, _VALIDATION = 400, 200  # the other 1,197 images are the test set
_PATCH_SEED = 8


def load_digits(path: str, root: Path) -> ImageDataset:
    """Load the digits in a fixed split: 600 training images, of which the last 200 are held out, and 1,197 test images.

    The three parts are stratified by class. The OOD dataset "photographs" holds 1,197 grey patches of two
    photographs. Nothing is downloaded.

    Args:
        path: Must be empty.
        root: Not used.
    """
    from sklearn.datasets import load_digits as read_digits

    digits = read_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]  # (N, 1, 8, 8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = stratified_order(labels, _SPLIT_SEED)
    train, test = order[: _TRAIN + _VALIDATION], order[_TRAIN + _VALIDATION :]
    return ImageDataset(
        classes=10,
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        augmentation=Augmentation(padding=1),
        validation=_VALIDATION,
        ood={"photographs": load_photographs},
        corruptions=(
            "gaussian_noise",
            "shot_noise",
            "impulse_noise",
            "defocus_blur",
            "brightness",
            "contrast",
        ),
    )


def load_photographs() -> Tensor:
    """Load grey patches of two photographs, a temple and a flower, as an OOD dataset: (1197, 1, 8, 8) uint8.

    The photographs are first reduced to a quarter of their side, so that a patch shows 32 x 32 pixels of the original.
    The positions of the patches are fixed.
    """
    from sklearn.datasets import load_sample_images

    count = 1797 - _TRAIN - _VALIDATION
    draws = np.random.PCG64(_PATCH_SEED).random_raw(2 * count).reshape(2, count)
    patches = []
    for index, photograph in enumerate(load_sample_images().images):
        grey = photograph @ np.array([0.299, 0.587, 0.114])  # luminance (H, W)
        h, w = grey.shape[0] // 4, grey.shape[1] // 4
        small = np.rint(grey[: 4 * h, : 4 * w].reshape(h, 4, w, 4).mean((1, 3))).astype(np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(small, (8, 8))
        rows, columns = draws[:, index::2]
        patches.append(windows[rows % windows.shape[0], columns % windows.shape[1]])
    return torch.from_numpy(np.concatenate(patches))[:, None]
