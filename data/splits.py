"""Selecting from a dataset: stratified orders, held-out images, and the statistics of what is left."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.pictures import PictureTask
from data.source import Source, Split

_SUBSET_SEED = 20210601  # of the stratified order from which `train_size` keeps the first images


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random order in which every prefix holds each class in its share, to within one or two images.

    The order is computed from a bit generator's raw output, whose stream NumPy promises never to change.

    Args:
        labels: (N,) int64.
        seed: Fixes the order.

    Returns:
        (N,) int64 indices into `labels`, on the CPU.
    """
    classes = labels.cpu().numpy()
    n = len(classes)
    raw = np.random.PCG64(seed).random_raw(2 * n)
    position: NDArray[np.float64] = np.empty(n)
    for c in np.unique(classes):
        own = np.flatnonzero(classes == c)
        own = own[np.argsort(raw[own], kind="stable")]
        # The i-th of n_c images of a class stands at (i + ½) / n_c of the way through the order.
        position[own] = (np.arange(len(own)) + 0.5) / len(own)
    return torch.from_numpy(np.lexsort((raw[n:], position)))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, scaled to [0, 1], from exact counts of the 256 levels.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        The C means and the C standard deviations (dividing by the number of pixels). A channel that never varies
        gets standard deviation 1, so that dividing by it does no harm.
    """
    level = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).cpu().double()
        share = counts / counts.sum()
        mean = (share * level).sum()
        means.append(mean.item())
        std = (share * (level - mean).square()).sum().sqrt().item()
        stds.append(std if (counts > 0).sum() > 1 else 1.0)
    return tuple(means), tuple(stds)


def make_task(name: str, source: Source, validation: int | None, train_size: int | None) -> PictureTask:
    """Hold out images of a source's training set, shrink the rest if asked to, and measure what is left.

    Args:
        name: The dataset's name, used in messages.
        source: The dataset as stored.
        validation: Number of images held out from the end of the training set; None for the dataset's default.
        train_size: Keep only this many of the rest, a fixed stratified subset; None for all.

    Raises:
        ValueError: If there are not that many images, or a class is left without any.
    """
    held_out = source.validation if validation is None else validation
    check_counts(name, len(source.train.labels), held_out, train_size)
    train, rest = _hold_out(name, source.train, held_out)
    if train_size is not None:
        train = _shrink(train, train_size)
    mean, std = channel_statistics(train.images)
    return PictureTask(
        name=name,
        classes=source.classes,
        train=train,
        validation=rest,
        test=source.test,
        mean=mean,
        std=std,
        augmentation=replace(source.augmentation),
        ood=source.ood,
        corruptions=source.corruptions,
    )


def check_counts(name: str, available: int, held_out: int, train_size: int | None) -> None:
    """Refuse to hold out or to keep more training images than there are.

    Args:
        name: The dataset's name, used in messages.
        available: All its training images.
        held_out: How many are to be held out.
        train_size: How many of the rest are to be kept; None for all.

    Raises:
        ValueError: Naming what is possible.
    """
    if not 0 <= held_out < available:
        raise ValueError(
            f"{name}: cannot hold out validation={held_out} training images; there are {available}, "
            f"so 0 to {available - 1} are possible"
        )
    left = available - held_out
    if train_size is not None and not 1 <= train_size <= left:
        raise ValueError(
            f"{name}: cannot keep train_size={train_size} training images; after holding out validation images "
            f"there are {left}, so 1 to {left} are possible"
        )


def _hold_out(name: str, train: Split, count: int) -> tuple[Split, Split | None]:
    """The training set without its last `count` images, and those images (None if there are none)."""
    available = len(train.labels)
    if count == 0:
        return train, None
    kept, held = available - count, train.labels[available - count :]
    gone = sorted(set(held.tolist()) - set(train.labels[:kept].tolist()))
    if gone:
        raise ValueError(
            f"{name}: holding out the last {count} of {available} training images leaves none of class "
            f"{', '.join(map(str, gone))}; if the images are sorted by class, shuffle them before storing them"
        )
    return Split(train.images[:kept], train.labels[:kept]), Split(train.images[kept:], held)


def _shrink(train: Split, count: int) -> Split:
    """A fixed stratified subset of `count` images, in their old order; a smaller subset is part of a larger one."""
    chosen = stratified_order(train.labels, _SUBSET_SEED)[:count].sort().values
    return Split(train.images[chosen], train.labels[chosen])
