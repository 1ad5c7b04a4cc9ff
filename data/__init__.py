"""The tasks. `load` makes one by its dataset's name, for example "digits" or "npz:pictures.npz"."""

import difflib
from collections.abc import Callable
from pathlib import Path

from data.arrays import load_npz
from data.batches import Batches, normalised
from data.digits import load_digits
from data.pictures import PictureTask
from data.shapes import shape
from data.source import Augmentation, Source, Split
from data.splits import make_task
from data.task import Part, Passes, Shape, Task
from data.vision import load_cifar10, load_cifar100, load_fashion_mnist

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batches",
    "Part",
    "Passes",
    "PictureTask",
    "Shape",
    "Source",
    "Split",
    "Task",
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
    "fashion_mnist": load_fashion_mnist,
    "npz": load_npz,
}


def load(
    dataset: str,
    *,
    root: Path = Path("downloads"),
    validation: int | None = None,
    train_size: int | None = None,
) -> Task:
    """Load a dataset as a task, on the CPU.

    Args:
        dataset: A key of `DATASETS`; "npz:PATH" reads the user's own arrays from PATH.
        root: Folder for downloads, created when something is downloaded.
        validation: Number of images held out from the end of the training set; None for the dataset's default
            (200 for digits, 0 for all others).
        train_size: Train on this many images only, a fixed stratified subset of those not held out; None for all.

    Raises:
        ValueError: If the name is unknown, a number does not fit the dataset, or a file's contents are wrong.
        FileNotFoundError: If a file is missing and cannot be downloaded.
    """
    name, colon, path = dataset.partition(":")
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join("npz:PATH" if known == "npz" else known for known in DATASETS)
        raise ValueError(f"unknown dataset {dataset!r}: known are {known}{hint}")
    if name == "npz" and not path:
        raise ValueError(f"dataset {dataset!r}: the path of a file must follow, as in 'npz:pictures.npz'")
    if name != "npz" and colon:
        raise ValueError(f"dataset {dataset!r}: {name} takes no path; write {name!r}")
    return make_task(dataset, DATASETS[name](path, root), validation, train_size)
