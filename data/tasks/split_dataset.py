"""Selecting from a dataset: stratified orders, held-out images, and the statistics of what is left."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.files.image_files import Images
from data.tasks.image_dataset import ChannelStatistics, ImageDataset, Split
from data.tasks.image_task import ImageTask

_SUBSET_SEED = 20210601  # of the stratified order from which `train_size` keeps the first images
_NOISE_SEED = 20210220  # of the order in which `label_noise` replaces labels, and of what it puts there


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


def make_image_task(
    name: str, source: ImageDataset, validation: int | None, train_size: int | None, label_noise: float = 0.0
) -> ImageTask:
    """Hold out images of a source's training set, shrink the rest if asked to, and measure what is left.

    Args:
        name: The dataset's name, used in messages.
        source: The dataset as stored.
        validation: Number of images held out from the end of the training set; None for the dataset's default.
        train_size: Keep only this many of the rest, a fixed stratified subset; None for all.
        label_noise: Share of the training labels that are replaced, as `add_label_noise` says; those of images held out
            and of test images stay as they are.

    Raises:
        ValueError: If there are not that many images, a class is left without any, or the share is none.
    """
    held_out = source.validation if validation is None else validation
    check_split_sizes(name, len(source.train.labels), held_out, train_size)
    noisy = add_label_noise(source.train.labels, source.classes, label_noise)
    train, rest = _hold_out(name, source.train, held_out)
    labels = noisy[: len(train.labels)]
    if train_size is None:
        train = Split(train.images, labels)
    else:
        chosen = _stratified_subset(train.labels, train_size)
        train = Split(train.images[chosen], labels[chosen])
    mean, std = _channel_statistics(source, train.images)
    return ImageTask(
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


def _channel_statistics(source: ImageDataset, images: Images) -> ChannelStatistics:
    """Mean and standard deviation of the images that are used; a source of files says itself how it measures them."""
    if isinstance(images, Tensor):
        return channel_statistics(images)
    assert source.statistics is not None
    return source.statistics(images)


def add_label_noise(labels: Tensor, classes: int, share: float) -> Tensor:
    """Replace a fixed random share of labels by uniform draws from all classes, which may hit the true one.

    They are drawn for the whole training set as it is stored, before anything is held out or left out: what an image's
    label is depends on the image and the share alone, so that all methods, seeds, subsets and hold-outs see the same
    one, and images with a noisy label keep it when the share grows. Of all images exactly ⌊share · N + ½⌋ are drawn;
    of a subset, about this share. The draws are a bit generator's raw output, whose stream NumPy promises never to
    change.

    Args:
        labels: (N,) int64, of the training set as it is stored.
        classes: Number of classes.
        share: From 0 to 1; the noise level c of the paper.

    Returns:
        (N,) int64; `labels` itself if the share is 0.

    Raises:
        ValueError: If the share is not from 0 to 1.

    References:
        Wortsman et al., Learning neural network subspaces, ICML 2021, section 4.3.
    """
    check_label_noise(share)
    if share == 0:
        return labels
    n = len(labels)
    raw = np.random.PCG64(_NOISE_SEED).random_raw(2 * n)
    drawn = torch.from_numpy(np.argsort(raw[:n], kind="stable")[: int(share * n + 0.5)])
    random = torch.from_numpy((raw[n:] % classes).astype(np.int64))  # uniform but for less than classes / 2^64
    noisy = labels.clone()
    noisy[drawn] = random[drawn]
    return noisy


def check_label_noise(label_noise: float) -> None:
    """Refuse a share of noisy labels that is none.

    Raises:
        ValueError: If it is not from 0 to 1.
    """
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise is the share of training labels drawn at random, 0 to 1; got {label_noise}")


def check_split_sizes(name: str, available: int, held_out: int, train_size: int | None) -> None:
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


def _stratified_subset(labels: Tensor, count: int) -> Tensor:
    """Indices of a fixed stratified subset, in their old order; a smaller subset is part of a larger one."""
    # Deviation: von Oswald et al. 2021, Table 15, pick at random. 10,000 of CIFAR-10 drawn so would hold 1,000 ± 27 of
    # each class; here they hold 1,000.
    return stratified_order(labels, _SUBSET_SEED)[:count].sort().values
