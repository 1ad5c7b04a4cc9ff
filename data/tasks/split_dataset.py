"""Turns an image dataset into a task: held-out images, training subsets, label noise and channel statistics."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.files.image_files import Images
from data.tasks.image_dataset import ChannelStatistics, ImageDataset, Split
from data.tasks.image_task import ImageTask

_SUBSET_SEED = 20210601  # seed of the stratified order whose first images `train_size` keeps
_NOISE_SEED = 20210220  # seed of the order in which `label_noise` replaces labels, and of the new labels


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return a random order in which each prefix holds every class in proportion, to within one or two images.

    The order is computed from the raw output of a bit generator, which NumPy guarantees never to change.

    Args:
        labels: (N,) int64.
        seed: Seed of the order.

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
        # The i-th of n_c images of a class has the position (i + ½) / n_c in an order from 0 to 1.
        position[own] = (np.arange(len(own)) + 0.5) / len(own)
    return torch.from_numpy(np.lexsort((raw[n:], position)))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, scaled to [0, 1], from exact counts of the 256 levels.

    Args:
        images: (N, C, H, W) uint8.

    Returns:
        The C means and the C standard deviations, which divide by the number of pixels. The standard deviation of a
        constant channel is set to 1, so that the channel can be divided by it.
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
    """Return the task of an image dataset: hold out images, take a training subset and add label noise.

    The channel statistics are those of the training images that remain.

    Args:
        name: The dataset's name.
        source: The dataset as stored.
        validation: Number of images held out from the end of the training set; None for the dataset's default.
        train_size: Number of the other images to train on, a fixed stratified subset; None for all.
        label_noise: Share of the training labels that are replaced; see `add_label_noise`. Held-out and test images
            keep their labels.

    Raises:
        ValueError: If there are too few images, a class is left without any, or the share is not from 0 to 1.
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
        gone = sorted(set(train.labels.tolist()) - set(train.labels[chosen].tolist()))
        if gone:
            rarest = int(torch.bincount(train.labels)[gone].min())
            raise ValueError(
                f"{name}: train_size={train_size} of {len(train.labels)} training images leaves none of class "
                f"{', '.join(map(str, gone))}, of which there are {rarest} or more; keep more images"
            )
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
    """Return the channel statistics of the training images; a dataset of files has its own function for them."""
    if isinstance(images, Tensor):
        return channel_statistics(images)
    assert source.statistics is not None
    return source.statistics(images)


def add_label_noise(labels: Tensor, classes: int, share: float) -> Tensor:
    """Replace a fixed random share of the labels by uniform draws from all classes, the true class included.

    The labels are drawn for the whole training set as it is stored, before images are held out or left out. An image's
    label therefore depends on the image and the share alone: it is the same for all methods, seeds, subsets and
    held-out sets. An image with a noisy label keeps that label when the share grows. Exactly ⌊share · N + ½⌋ of all
    labels are drawn; in a subset, about this share. The draws are the raw output of a bit generator, which NumPy
    guarantees never to change.

    Args:
        labels: (N,) int64, the labels of the training set as it is stored.
        classes: Number of classes.
        share: From 0 to 1; the noise level c of the paper.

    Returns:
        (N,) int64. If the share is 0, this is `labels` itself.

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
    """Check that the share of noisy labels is from 0 to 1.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise is the share of training labels drawn at random, 0 to 1; got {label_noise}")


def check_split_sizes(name: str, available: int, held_out: int, train_size: int | None) -> None:
    """Check that a training set has enough images for a held-out set and a training subset.

    Args:
        name: The dataset's name.
        available: Number of all its training images.
        held_out: Number of images to hold out.
        train_size: Number of the other images to train on; None for all.

    Raises:
        ValueError: If it has not; names the possible numbers.
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
    """Split off the last `count` training images: return the others, and those images or None if `count` is 0."""
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
    """Return the sorted indices of a fixed stratified subset. A smaller subset is part of a larger one."""
    # Deviation: von Oswald et al. 2021, Table 15, draw the subset at random. 10,000 images of CIFAR-10 drawn so would
    # hold 1,000 ± 27 of each class. Here they hold 1,000 of each.
    return stratified_order(labels, _SUBSET_SEED)[:count].sort().values
