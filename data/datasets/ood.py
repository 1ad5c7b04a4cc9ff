"""Out-of-distribution (OOD) datasets: images of unknown classes, on which a network should be uncertain."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data.datasets.cifar import load_cifar10_test, load_cifar100_test
from data.datasets.mnist import load_emnist_letters_test, load_fashion_mnist_test, load_kmnist_test, load_mnist_test
from data.datasets.npz import OOD_NAME, OOD_NAME_RULE, load_npz_ood_images
from data.datasets.resized_ood import load_lsun_resize, load_tiny_imagenet_resize
from data.datasets.svhn import load_svhn_test
from data.files.image_files import Images

# folder for downloads -> (M, C, H, W) uint8
OODLoader = Callable[[Path], Images]

OOD_DATASETS: dict[str, OODLoader] = {
    "svhn": load_svhn_test,
    "lsun_resize": load_lsun_resize,
    "tiny_imagenet_resize": load_tiny_imagenet_resize,
    "cifar10": load_cifar10_test,
    "cifar100": load_cifar100_test,
    "mnist": load_mnist_test,
    "fashion_mnist": load_fashion_mnist_test,
    "kmnist": load_kmnist_test,
    "emnist_letters": load_emnist_letters_test,
}

_COLOUR, _GREY = (3, 32), (1, 28)
OOD_SHAPES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar10", "cifar100"), _COLOUR),
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "emnist_letters"), _GREY),
}
"""Channels and side of each OOD dataset's images, known before the download."""

STANDARD_OOD_DATASETS: dict[str, tuple[str, ...]] = {
    "cifar10": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar100"),
    "cifar100": ("svhn", "lsun_resize", "tiny_imagenet_resize", "cifar10"),
    "fashion_mnist": ("mnist", "kmnist", "emnist_letters"),
    "mnist": ("fashion_mnist", "kmnist", "emnist_letters"),
}
"""Default OOD datasets of each dataset.

They are those of von Oswald et al. 2021, Table 16, and Sacramento et al. 2020, Tables 3 and S2. Those of MNIST are our
choice. TinyImageNet has none, because no OOD dataset has its image size.
"""


def choose_ood_datasets(
    dataset: str,
    like: tuple[int, int],
    own: Mapping[str, Callable[[], Images]],
    names: Sequence[str] | None,
    root: Path,
) -> dict[str, Callable[[], Images]]:
    """Return the loaders of a dataset's OOD datasets, after all checks that need no download.

    Args:
        dataset: The dataset's name.
        like: Channels and side of the dataset's images.
        own: Loaders of the OOD datasets that the dataset itself provides.
        names: Names of the OOD datasets: keys of `own` or `OOD_DATASETS`, or "npz:PATH". None for all of `own` and the
            dataset's `STANDARD_OOD_DATASETS`.
        root: Folder for downloads.

    Returns:
        Name of each OOD dataset -> function that loads its images, (M, C, H, W) uint8.

    Raises:
        ValueError: If a name is unknown or listed twice, or its images have another shape than the dataset's.
        FileNotFoundError: If a .npz file does not exist.
    """
    listed = (
        [*own, *(name for name in STANDARD_OOD_DATASETS.get(dataset, ()) if name not in own)]
        if names is None
        else list(names)
    )
    chosen: dict[str, Callable[[], Images]] = {}
    for name in listed:
        label, load = _find_ood_dataset(dataset, like, own, name, root)
        if label in chosen:
            raise ValueError(f"{dataset}: the OOD dataset {label!r} is listed twice in ood: {_written(listed)}")
        others = [other for other in listed if other != name]
        chosen[label] = partial(_load, dataset, like, name, load, others)
    return chosen


def _find_ood_dataset(
    dataset: str, like: tuple[int, int], own: Mapping[str, Callable[[], Images]], name: str, root: Path
) -> tuple[str, Callable[[], Images]]:
    """Find an OOD dataset by its name: return its label in tables and the function that loads it."""
    if name in own:
        return name, own[name]
    if name.startswith("npz:"):
        return _find_npz_ood_dataset(dataset, like, name)
    if name not in OOD_DATASETS or name == dataset:
        known = [*own, *(other for other in OOD_DATASETS if other != dataset)]
        close = [] if name == dataset else difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{dataset}: unknown OOD dataset {name!r}: known are {', '.join(known)}, npz:PATH{hint}")
    if OOD_SHAPES[name] != like:
        fitting = [other for other, shape in OOD_SHAPES.items() if shape == like and other != dataset]
        raise ValueError(
            f"{dataset}: the OOD dataset {name!r} has images of {_size(OOD_SHAPES[name])}, expected {_size(like)}; "
            f"those that fit are {', '.join([*own, *fitting, 'npz:PATH'])}"
        )
    return name, partial(OOD_DATASETS[name], root)


def _find_npz_ood_dataset(dataset: str, like: tuple[int, int], name: str) -> tuple[str, Callable[[], Images]]:
    """Return the label and the loader of the user's own images. Their file is read and checked."""
    file = Path(name.removeprefix("npz:"))
    label = file.name.removesuffix(".npz")
    try:
        if not OOD_NAME.fullmatch(label):
            raise ValueError(OOD_NAME_RULE)
        images = _check(load_npz_ood_images(file), like)
    except ValueError as error:
        raise ValueError(f"{dataset}: OOD dataset {name!r}: {error}") from error
    return label, lambda: images  # kept in memory: the file may change until they are evaluated


def _load(dataset: str, like: tuple[int, int], name: str, load: Callable[[], Images], others: list[str]) -> Images:
    """Load an OOD dataset; if that fails, say in the message how to leave it out."""
    remedy = f"or leave it out: `ood: {_written(others)}`"
    try:
        return _check(load(), like)
    except ValueError as error:
        raise ValueError(f"OOD dataset {name} of {dataset}: {error}; {remedy}") from error
    except OSError as error:
        raise FileNotFoundError(f"OOD dataset {name} of {dataset}: {error}; {remedy}") from error


def _check(images: Images, like: tuple[int, int]) -> Images:
    """Return the images if they have the shape of the dataset's images."""
    channels, side = like
    kind = images.dtype if isinstance(images, Tensor) else torch.uint8
    if kind != torch.uint8 or images.shape[1:] != (channels, side, side) or not len(images):
        found = f"{kind} {tuple(images.shape)}"
        raise ValueError(f"found images {found}, expected torch.uint8 (N, {channels}, {side}, {side})")
    return images


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} x {shape[1]}"


def _written(names: list[str]) -> str:
    return f"[{', '.join(names)}]"
