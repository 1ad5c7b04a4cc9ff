"""Look-up of datasets by name.

`load` returns the task of a dataset. `dataset_shape` returns its sizes before anything is downloaded.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Unpack, cast

from data.datasets.cifar import load_cifar10, load_cifar100
from data.datasets.digits import load_digits
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.image_folder import digest_folder, load_folder
from data.datasets.imagenet import load_imagenet
from data.datasets.mnist import load_fashion_mnist, load_mnist
from data.datasets.npz import load_npz
from data.datasets.official_corruptions import check_official_exists, load_official_sets
from data.datasets.ood import choose_ood_datasets
from data.datasets.synthetic import load_synthetic, load_synthetic_text
from data.datasets.text_files import load_enwik8, load_text
from data.datasets.tiny_imagenet import load_tiny_imagenet
from data.files.digests import KnownDigests, digest_file
from data.tasks.dataset_options import (
    IMAGE_FOLDER_OPTIONS,
    IMAGE_OPTIONS,
    IMAGENET_OPTIONS,
    TEXT_OPTIONS,
    DatasetOptions,
    check_cutout,
    check_options,
    check_printable,
)
from data.tasks.image_dataset import ImageDataset
from data.tasks.image_task import ImageTask
from data.tasks.split_dataset import check_label_noise, check_split_sizes, make_image_task
from data.tasks.task import DatasetShape, Task
from data.tasks.text_task import SEGMENT, TextTask, count_segments, count_symbols

# (text after the colon of the dataset's name, folder for downloads) -> the dataset as stored
Loader = Callable[[str, Path], ImageDataset]

DATASETS: dict[str, Loader] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "tiny_imagenet": load_tiny_imagenet,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "imagenet": load_imagenet,
    "npz": load_npz,
    "imagefolder": load_folder,
    "synthetic": load_synthetic,
}

TEXTS: dict[str, Callable[..., TextTask]] = {
    "enwik8": load_enwik8,
    "text": load_text,
    "synthetic_text": load_synthetic_text,
}

WITH_PATH = ("npz", "imagefolder", "text")
"""Kinds of datasets read from the user's own files. A name is the kind, a colon and a path."""

SYNTHETIC = ("synthetic", "synthetic_text")
"""Kinds of synthetic data. A name is the kind, a colon and the name of the dataset whose form they have."""

VERSIONS = dict.fromkeys(("digits", "cifar10", "cifar100", "fashion_mnist", "npz"), 2)
"""Version of each dataset; 1 for a dataset that is not listed.

A version is raised when a dataset's images, augmentation, OOD datasets or corruptions change. It is part of a run's
key.
"""

_OPTIONS_OF = (
    dict.fromkeys(DATASETS, IMAGE_OPTIONS)
    | {"imagenet": IMAGENET_OPTIONS, "imagefolder": IMAGE_FOLDER_OPTIONS}
    | dict.fromkeys(TEXTS, TEXT_OPTIONS)
)


def dataset_names() -> list[str]:
    """List the names that `load` accepts."""
    after = dict.fromkeys(WITH_PATH, ":PATH") | dict.fromkeys(SYNTHETIC, ":DATASET")
    return [name + after.get(name, "") for name in (*DATASETS, *TEXTS)]


def load(
    dataset: str,
    *,
    root: Path = Path("downloads"),
    known: KnownDigests | None = None,
    **options: Unpack[DatasetOptions],
) -> Task:
    """Load a dataset as a task on the CPU.

    Args:
        dataset: One of `dataset_names()`. "npz:PATH" reads the user's arrays, "text:PATH" the bytes of a file.
        root: Folder for downloads. It is created by the first download.
        known: Digests of files computed before, as for `digest`.
        options: Which examples are used, how they are changed, and what the task is tested on.

    Raises:
        ValueError: If a name is unknown, an option or an OOD dataset does not fit the dataset, or a file's contents
            are wrong.
        FileNotFoundError: If a file is missing and cannot be downloaded.
    """
    check_printable(dataset, options.get("ood"))
    name, colon, path = dataset.partition(":")
    if name not in DATASETS and name not in TEXTS:
        close = difflib.get_close_matches(name, [*DATASETS, *TEXTS], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown dataset {dataset!r}: known are {', '.join(dataset_names())}{hint}")
    if name in WITH_PATH and not path:
        raise ValueError(f"dataset {dataset!r}: a path must follow, as in '{name}:PATH'")
    if name not in (*WITH_PATH, *SYNTHETIC) and colon:
        raise ValueError(f"dataset {dataset!r}: {name} takes no path; write {name!r}")
    if name in DOWNLOADED_SHAPES:  # wrong options are refused before the download
        dataset_shape(dataset, **options)
    check_options(dataset, options, _OPTIONS_OF[name])
    if options.get("corruptions") == "official":
        check_official_exists(dataset)
    if name in TEXTS:
        return TEXTS[name](path, root, **{key: options.get(key) for key in ("validation", "train_size", "segment")})
    return _images(dataset, name, path, root, known, options)


def _images(
    dataset: str, name: str, path: str, root: Path, known: KnownDigests | None, options: DatasetOptions
) -> ImageTask:
    """Load an image dataset and return its task. The arguments are those of `load`."""
    side = options.get("image_size")
    source = load_folder(path, root, side) if side else DATASETS[name](path, root)
    channels, side = source.test.images.shape[1:3]
    check_cutout(dataset, options, side)
    kind = options.get("corruptions", "generated")
    source = replace(
        source,
        ood=choose_ood_datasets(dataset, (channels, side), source.ood, options.get("ood"), root),
        augmentation=replace(source.augmentation, cutout=options.get("cutout", 0)),
        corruptions=source.corruptions if kind == "generated" else (),
    )
    task = make_image_task(
        dataset, source, options.get("validation"), options.get("train_size"), options.get("label_noise", 0.0)
    )
    if kind != "official":
        return replace(task, corruption_folder=root / "generated_corruptions")
    return replace(task, official=load_official_sets(dataset, root, source.test, known))


def digest(dataset: str, known: KnownDigests | None = None) -> str:
    """Return the SHA-256 of the contents of a dataset named KIND:PATH, or "" if the dataset has no path.

    For a folder of images, the digest covers the names and contents of all images.

    Args:
        dataset: The dataset's name, as for `load`.
        known: Digests computed before, by the fingerprint of their files: files that have not changed since are not
            read again. None to read them in any case.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a folder has wrong contents.
    """
    kind, _, path = dataset.partition(":")
    if kind not in WITH_PATH:
        return ""
    if kind == "imagefolder":
        return digest_folder(path, known)
    return digest_file(Path(path).expanduser(), known)


def dataset_shape(dataset: str, **options: Unpack[DatasetOptions]) -> DatasetShape:
    """Return a dataset's shape, and check the arguments of a later call of `load`.

    Nothing is downloaded. Datasets that need no download are loaded, and so their files are checked.

    Args:
        dataset: The dataset's name, as for `load`.
        options: The options, as for `load`.

    Raises:
        ValueError: If a name is unknown, an option or an OOD dataset does not fit, or a file's contents are wrong.
        FileNotFoundError: If a file is missing.
    """
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return _shape(dataset, tuple(sorted(frozen.items())))


@lru_cache(maxsize=32)
def _shape(dataset: str, frozen: tuple[tuple[str, object], ...]) -> DatasetShape:
    """Do the work of `dataset_shape`."""
    options = cast(DatasetOptions, dict(frozen))
    if dataset not in DOWNLOADED_SHAPES:
        return load(dataset, root=Path(), **options).shape
    known = DOWNLOADED_SHAPES[dataset]
    check_printable(dataset, options.get("ood"))
    held_out, kept = options.get("validation"), options.get("train_size")
    if known.image_size is None or known.in_channels is None:
        check_options(dataset, options, TEXT_OPTIONS)
        segment = options.get("segment") or SEGMENT
        train = count_symbols(dataset, "train_size", kept, known.train, least=segment + 1)
        count_symbols(dataset, "validation", held_out, known.train // 18)
        return known._replace(train=count_segments(train, segment))
    check_options(dataset, options, IMAGENET_OPTIONS if dataset == "imagenet" else IMAGE_OPTIONS)
    if options.get("corruptions") == "official":
        check_official_exists(dataset)
    check_cutout(dataset, options, known.image_size)
    check_split_sizes(dataset, known.train, held_out or 0, kept)
    if kept is not None and kept < known.classes:
        raise ValueError(f"{dataset}: train_size={kept} leaves no image of some of the {known.classes} classes")
    check_label_noise(options.get("label_noise", 0.0))
    choose_ood_datasets(dataset, (known.in_channels, known.image_size), {}, options.get("ood"), Path())
    return known._replace(train=known.train - (held_out or 0) if kept is None else kept)
