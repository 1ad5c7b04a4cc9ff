"""The tasks. `load` makes one by its dataset's name, for example "digits", "npz:pictures.npz" or "enwik8"."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from data.arrays import load_npz
from data.batches import Batches, normalised
from data.cifar import load_cifar10, load_cifar100
from data.companions import COMPANIONS, STANDARD, choose
from data.digits import load_digits
from data.mnist import load_fashion_mnist, load_mnist
from data.options import PICTURES, TEXT, Options, check_options
from data.pictures import PictureTask
from data.shapes import DOWNLOADED, shape
from data.source import Augmentation, Source, Split
from data.splits import make_task
from data.task import Part, Passes, Shape, Task
from data.text import TextTask, load_enwik8, load_text
from data.tiny_imagenet import load_tiny_imagenet

__all__ = [
    "COMPANIONS",
    "DATASETS",
    "STANDARD",
    "TEXTS",
    "WITH_PATH",
    "Augmentation",
    "Batches",
    "Options",
    "Part",
    "Passes",
    "PictureTask",
    "Shape",
    "Source",
    "Split",
    "Task",
    "TextTask",
    "dataset_names",
    "load",
    "normalised",
    "shape",
]

# (what follows the colon of the dataset's name, folder for downloads) -> the dataset as stored
Loader = Callable[[str, Path], Source]

DATASETS: dict[str, Loader] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "tiny_imagenet": load_tiny_imagenet,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "npz": load_npz,
}

TEXTS: dict[str, Callable[..., TextTask]] = {
    "enwik8": load_enwik8,
    "text": load_text,
}

WITH_PATH = ("npz", "text")
"""Kinds of datasets that are the user's own, at the path that follows their name and a colon."""


def dataset_names() -> list[str]:
    """The names that `load` understands."""
    return [f"{name}:PATH" if name in WITH_PATH else name for name in (*DATASETS, *TEXTS)]


def load(dataset: str, *, root: Path = Path("downloads"), **options: Unpack[Options]) -> Task:
    """Load a dataset as a task, on the CPU.

    Args:
        dataset: One of `dataset_names()`; "npz:PATH" reads the user's own arrays from PATH, "text:PATH" a file's bytes.
        root: Folder for downloads, created when something is downloaded.
        options: How much of it is used, how, and what it is tested against.

    Raises:
        ValueError: If a name is unknown, an option or a companion does not fit the dataset, or a file's contents are
            wrong.
        FileNotFoundError: If a file is missing and cannot be downloaded.
    """
    name, colon, path = dataset.partition(":")
    if name not in DATASETS and name not in TEXTS:
        close = difflib.get_close_matches(name, [*DATASETS, *TEXTS], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown dataset {dataset!r}: known are {', '.join(dataset_names())}{hint}")
    if name in WITH_PATH and not path:
        raise ValueError(f"dataset {dataset!r}: the path of a file must follow, as in '{name}:PATH'")
    if name not in WITH_PATH and colon:
        raise ValueError(f"dataset {dataset!r}: {name} takes no path; write {name!r}")
    if name in DOWNLOADED:  # refuse before a download what will not fit after it
        shape(dataset, **options)
    if name in TEXTS:
        check_options(dataset, options, TEXT)
        sizes = {key: options.get(key) for key in ("validation", "train_size", "segment")}
        return TEXTS[name](path, root, **sizes)
    check_options(dataset, options, PICTURES)
    source = DATASETS[name](path, root)
    channels, side = source.test.images.shape[1:3]
    source = replace(
        source,
        ood=choose(dataset, (channels, side), source.ood, options.get("ood"), root),
        augmentation=replace(source.augmentation, cutout=options.get("cutout", 0)),
    )
    return make_task(
        dataset, source, options.get("validation"), options.get("train_size"), options.get("label_noise", 0.0)
    )
