"""The shape of a dataset, known before anything is downloaded: what a study needs to check and plan."""

from functools import lru_cache
from pathlib import Path
from typing import Unpack, cast

from data.companions import choose
from data.official_corruptions import check_exists
from data.options import FILES, PICTURES, TEXT, Options, check_cutout, check_options
from data.splits import check_counts, check_share
from data.task import Shape
from data.text import SEGMENT, check_symbols, segments

DOWNLOADED = {
    "cifar10": Shape(3, 32, 10, 50_000),
    "cifar100": Shape(3, 32, 100, 50_000),
    "mnist": Shape(1, 28, 10, 60_000),
    "fashion_mnist": Shape(1, 28, 10, 60_000),
    "tiny_imagenet": Shape(3, 64, 200, 100_000),
    "imagenet": Shape(3, 224, 1000, 1_281_167),
    "enwik8": Shape(None, None, 205, 90_000_000),  # symbols, in the place of examples
}
"""The official sizes of datasets that may have to be downloaded; pictures hold out nothing unless asked to."""


def shape(dataset: str, **options: Unpack[Options]) -> Shape:
    """Give a dataset's shape, and check all that `load` is to be called with.

    Nothing is downloaded; files that need no download are read, and so checked, for it.

    Args:
        dataset: its name, as for `load`.
        options: as for `load`.

    Raises:
        ValueError: if a name is unknown, an option or a companion does not fit, or a file's contents are wrong.
        FileNotFoundError: if a file is missing.
    """
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return _shape(dataset, tuple(sorted(frozen.items())))


@lru_cache(maxsize=32)
def _shape(dataset: str, frozen: tuple[tuple[str, object], ...]) -> Shape:
    from data import load

    options = cast(Options, dict(frozen))
    if dataset not in DOWNLOADED:
        return load(dataset, root=Path(), **options).shape
    known = DOWNLOADED[dataset]
    held_out, kept = options.get("validation"), options.get("train_size")
    if known.image_size is None or known.in_channels is None:
        check_options(dataset, options, TEXT)
        segment = options.get("segment") or SEGMENT
        train = check_symbols(dataset, "train_size", kept, known.train, least=segment + 1)
        check_symbols(dataset, "validation", held_out, known.train // 18)
        return known._replace(train=segments(train, segment))
    check_options(dataset, options, FILES if dataset == "imagenet" else PICTURES)
    if options.get("corruptions") == "official":
        check_exists(dataset)
    check_cutout(dataset, options, known.image_size)
    check_counts(dataset, known.train, held_out or 0, kept)
    check_share(options.get("label_noise", 0.0))
    choose(dataset, (known.in_channels, known.image_size), {}, options.get("ood"), Path())
    return known._replace(train=known.train - (held_out or 0) if kept is None else kept)
