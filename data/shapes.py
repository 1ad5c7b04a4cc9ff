"""The shape of a dataset, known before anything is downloaded: what a study needs to check and plan."""

from functools import lru_cache
from pathlib import Path

from data.splits import check_counts
from data.task import Shape

DOWNLOADED = {
    "cifar10": Shape(3, 32, 10, 50_000),
    "cifar100": Shape(3, 32, 100, 50_000),
    "fashion_mnist": Shape(1, 28, 10, 60_000),
}
"""The official sizes of datasets that may have to be downloaded."""


@lru_cache(maxsize=32)
def shape(dataset: str, *, validation: int | None = None, train_size: int | None = None) -> Shape:
    """Give a dataset's shape; files that need no download are read, and so checked, for it.

    Args:
        dataset: its name, as for `load`.
        validation: pictures held out; None for the dataset's default.
        train_size: pictures kept of the rest; None for all.

    Raises:
        ValueError: if the name is unknown, a number does not fit, or a file's contents are wrong.
        FileNotFoundError: if a file is missing.
    """
    from data import load

    if dataset not in DOWNLOADED:
        return load(dataset, root=Path(), validation=validation, train_size=train_size).shape
    known = DOWNLOADED[dataset]
    held_out = validation or 0
    check_counts(dataset, known.train, held_out, train_size)
    return known._replace(train=known.train - held_out if train_size is None else train_size)
