"""Reads the official corrupted test sets from their published files: CIFAR-10-C, CIFAR-100-C and ImageNet-C.

Nothing is downloaded, because each set has 3 to 60 GB. An error about a missing or wrong file says where to get it.

References:
    Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from data.corruptions import EXTRA_CORRUPTIONS, SEVERITIES, STANDARD_CORRUPTIONS
from data.datasets.image_folder import class_names, files_in_class_folders
from data.datasets.official_checksums import OfficialPart, count_blank_files, count_blank_images, pin
from data.files.digests import KnownDigests, digest_file, digest_files
from data.files.image_files import ImageFiles
from data.tasks.image_dataset import OfficialSets, Split


@dataclass(frozen=True)
class CorruptionArchives:
    """The published archives of an official corrupted test set.

    Attributes:
        folder: Name of the folder of the unpacked files.
        record: Web page of the archives.
        archives: Name of each archive, its MD5 and the corruptions in it.
    """

    folder: str
    record: str
    archives: tuple[tuple[str, str, tuple[str, ...]], ...]

    def remedy(self, root: Path, *corruptions: str) -> str:
        """Say how to get the files of some corruptions into a folder."""
        files = ", ".join(f"{name} (MD5 {md5})" for name, md5, held in self.archives if set(held) & set(corruptions))
        return f"get {files} from {self.record} and unpack so that the files lie in {root / self.folder}"


OFFICIAL = {
    "cifar10": CorruptionArchives(
        "CIFAR-10-C",
        "https://zenodo.org/records/2535967",
        (("CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499", STANDARD_CORRUPTIONS + EXTRA_CORRUPTIONS),),
    ),
    "cifar100": CorruptionArchives(
        "CIFAR-100-C",
        "https://zenodo.org/records/3555552",
        (("CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3", STANDARD_CORRUPTIONS + EXTRA_CORRUPTIONS),),
    ),
    "imagenet": CorruptionArchives(
        "ImageNet-C",
        "https://zenodo.org/records/2235448",
        (
            ("noise.tar", "e80562d7f6c3f8834afb1ecf27252745", STANDARD_CORRUPTIONS[:3]),
            ("blur.tar", "2d8e81fdd8e07fef67b9334fa635e45c", STANDARD_CORRUPTIONS[3:7]),
            ("weather.tar", "33ffea4db4d93fe4a428c40a6ce0c25d", STANDARD_CORRUPTIONS[7:11]),
            ("digital.tar", "89157860d7b10d5797849337ca2e5c03", STANDARD_CORRUPTIONS[11:]),
            ("extra.tar", "d492dfba5fc162d8ec2c3cd8ee672984", EXTRA_CORRUPTIONS),
        ),
    ),
}
"""The official corrupted test set of each dataset."""

_IMAGES = 10_000  # number of CIFAR's test images


def read_official_cifar(
    name: str, root: Path, labels: Tensor, *, corruptions: Sequence[str] = STANDARD_CORRUPTIONS
) -> Iterator[tuple[str, int, Tensor]]:
    """Yield the images of the official CIFAR-10-C or CIFAR-100-C, one corruption and severity at a time.

    The files are memory-mapped, and only the 10,000 images of one severity are copied. All files are checked before
    the first images are yielded.

    Args:
        name: "cifar10" or "cifar100".
        root: Folder with `CIFAR-10-C` or `CIFAR-100-C`, which have one .npy file per corruption.
        labels: (10000,) int64, the labels of the uncorrupted test images, in order.
        corruptions: Names of the corruptions; by default those of the mean corruption error.

    Yields:
        The corruption's name, its severity (1 to 5) and the images, (10000, 3, 32, 32) uint8, in the order of the
        test images.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file is damaged or holds other data, or the labels differ from the stored ones.
    """
    return _read(name, root, labels, corruptions, _IMAGES)


def load_official_sets(dataset: str, root: Path, test: Split, known: KnownDigests | None = None) -> OfficialSets:
    """Check the official corrupted test sets of a dataset, and return them.

    At their first use the files are read from end to end: see `data.datasets.official_checksums`.

    Args:
        dataset: "cifar10", "cifar100" or "imagenet".
        root: Folder with `CIFAR-10-C`, `CIFAR-100-C` or `ImageNet-C`.
        test: The uncorrupted test images.
        known: Digests computed before; see `data.files.digests`.

    Raises:
        FileNotFoundError: If a folder or a file is missing.
        ValueError: If the dataset has no such sets, a file is damaged, blank or another one than at its first use, or
            the labels differ from the stored ones.
    """
    check_official_exists(dataset)
    folder = root.expanduser() / OFFICIAL[dataset].folder
    if isinstance(test.images, Tensor):
        check_official_cifar(dataset, root, test.labels)
        parts = partial(_cifar_parts, dataset, root, len(test.labels))
        digest = pin(folder, parts(known))
        read = partial(read_official_cifar, dataset, root, test.labels)
        return OfficialSets(read, digest, lambda known: pin(folder, parts(known)))
    classes = class_names(root.expanduser() / "imagenet" / "train")
    found = find_official_imagenet(root, classes)
    side, remedy = test.images.side, OFFICIAL[dataset].remedy
    files = [
        (name, severity, files_in_class_folders(place.absolute(), classes, side, resized=False))
        for name, severity, place in found
    ]
    listed = [
        (name, severity, _in_test_order(split, test.images, test.labels, remedy(root, name)))
        for name, severity, split in files
    ]

    def digest_all(known: KnownDigests | None) -> str:
        return pin(
            folder,
            (_imagenet_part(name, severity, split, remedy(root, name), known) for name, severity, split in files),
        )

    return OfficialSets(lambda: iter(listed), digest_all(known), digest_all)


def _cifar_parts(name: str, root: Path, count: int, known: KnownDigests | None) -> Iterator[OfficialPart]:
    """Yield the files of CIFAR-10-C or CIFAR-100-C, in which all severities of a corruption follow each other."""
    folder = root.expanduser() / OFFICIAL[name].folder

    def count_blank(file: Path) -> list[tuple[int, int]]:
        stored = open_memmap(file, mode="r")
        blocks = (stored[(severity - 1) * count : severity * count] for severity in SEVERITIES)
        return [(count_blank_images(block), count) for block in blocks]

    for corruption in STANDARD_CORRUPTIONS:
        file, remedy = folder / f"{corruption}.npy", OFFICIAL[name].remedy(root, corruption)
        yield OfficialPart(file.name, remedy, partial(digest_file, file, known), partial(count_blank, file))
    labels, remedy = folder / "labels.npy", OFFICIAL[name].remedy(root, *STANDARD_CORRUPTIONS)
    yield OfficialPart(labels.name, remedy, partial(digest_file, labels, known), list)


def _imagenet_part(
    corruption: str, severity: int, split: Split, remedy: str, known: KnownDigests | None
) -> OfficialPart:
    """Return the images of ImageNet-C of one corruption and severity."""
    files = split.images
    assert isinstance(files, ImageFiles)
    return OfficialPart(
        f"{corruption}/{severity}",
        remedy,
        lambda: digest_files(files.names.tolist(), files.paths(), known),
        lambda: [count_blank_files(files)],
    )


def check_official_exists(dataset: str) -> None:
    """Check that official corrupted test sets of a dataset exist.

    Raises:
        ValueError: If none do; names the datasets that have some.
    """
    if dataset not in OFFICIAL:
        raise ValueError(
            f"{dataset} has no official corrupted files: only {', '.join(OFFICIAL)} have; use `corruptions: generated`"
        )


def _in_test_order(split: Split, test: ImageFiles, labels: Tensor, remedy: str) -> ImageFiles:
    """Return a folder's corrupted images in the order of the test images, which have the same file names."""
    assert isinstance(split.images, ImageFiles)
    folder = split.images.folder
    places = {name.rpartition(b"/")[2]: i for i, name in enumerate(split.images.names.tolist())}
    order = [places.get(name.rpartition(b"/")[2], -1) for name in test.names.tolist()]
    if missing := order.count(-1):
        raise ValueError(f"{folder}: {missing} of {len(order)} test images are not there; {remedy}")
    chosen = torch.tensor(order)
    if not torch.equal(split.labels[chosen], labels.cpu()):
        raise ValueError(f"{folder}: some images are in the folders of other classes than the test images; {remedy}")
    return split.images[chosen]


def check_official_cifar(
    name: str, root: Path, labels: Tensor, *, corruptions: Sequence[str] = STANDARD_CORRUPTIONS
) -> None:
    """Check that the files of `read_official_cifar` exist and are complete. This takes milliseconds.

    The arguments and errors are those of `read_official_cifar`.
    """
    _check(name, root, labels, corruptions, _IMAGES)


def find_official_imagenet(
    root: Path, classes: Sequence[str], *, corruptions: Sequence[str] = STANDARD_CORRUPTIONS
) -> list[tuple[str, int, Path]]:
    """List the folders of the official ImageNet-C, and check that each has a folder for every class.

    Args:
        root: Folder with `ImageNet-C`, which has the files `CORRUPTION/SEVERITY/CLASS/*.JPEG`.
        classes: Names of the class folders, such as "n01440764". Other folders are allowed.
        corruptions: Names of the corruptions; by default those of the mean corruption error.

    Returns:
        For each folder, the corruption's name, its severity (1 to 5) and the path.

    Raises:
        FileNotFoundError: If folders are missing.
    """
    official, root = OFFICIAL["imagenet"], root.expanduser()
    found = []
    for corruption in corruptions:
        remedy = official.remedy(root, corruption)
        for severity in SEVERITIES:
            folder = root / official.folder / corruption / str(severity)
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: no such folder; {remedy}")
            present = {entry.name for entry in folder.iterdir() if entry.is_dir()}
            if missing := [name for name in classes if name not in present]:
                raise FileNotFoundError(
                    f"{folder}: found {len(present)} class folders, but none for {len(missing)} of {len(classes)} "
                    f"classes, {missing[0]} for example; {remedy}"
                )
            found.append((corruption, severity, folder))
    return found


def _read(
    name: str, root: Path, labels: Tensor, corruptions: Sequence[str], count: int
) -> Iterator[tuple[str, int, Tensor]]:
    """Do the work of `read_official_cifar` for any number of test images."""
    _check(name, root, labels, corruptions, count)
    folder = root.expanduser() / OFFICIAL[name].folder
    for corruption in corruptions:
        stored = open_memmap(folder / f"{corruption}.npy", mode="r")
        for severity in SEVERITIES:
            block = np.array(stored[(severity - 1) * count : severity * count])  # (N, H, W, C), copied from the file
            yield corruption, severity, torch.from_numpy(block).permute(0, 3, 1, 2)
            del block  # free the memory before the next block is copied


def _check(name: str, root: Path, labels: Tensor, corruptions: Sequence[str], count: int) -> None:
    """Do the work of `check_official_cifar` for any number of test images."""
    if name not in ("cifar10", "cifar100"):
        raise ValueError(f"there are official .npy files for cifar10 and cifar100, not for {name!r}")
    official, root = OFFICIAL[name], root.expanduser()
    remedy = official.remedy(root, *corruptions)
    folder = root / official.folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {remedy}")
    names = [*(f"{corruption}.npy" for corruption in corruptions), "labels.npy"]
    if missing := [file for file in names if not (folder / file).is_file()]:
        raise FileNotFoundError(f"{folder}: no file {', '.join(missing)}; {remedy}")
    rows = len(SEVERITIES) * count
    for file in names[:-1]:
        _open(folder / file, "uint8", (rows, 32, 32, 3), remedy)
    _check_labels(folder / "labels.npy", name, labels, count, remedy)


def _check_labels(file: Path, name: str, labels: Tensor, count: int, remedy: str) -> None:
    """Check that the file holds the task's labels five times in a row."""
    rows = len(SEVERITIES) * count
    stored = _open(file, "integer", (rows,), remedy)
    own = labels.cpu().numpy()
    if own.shape != (count,):
        raise ValueError(f"{file}: is for {count} test images, but the task has {len(own)}; test on all of them")
    differ = np.flatnonzero(stored != np.tile(own, len(SEVERITIES)))
    if len(differ):
        first = int(differ[0])
        raise ValueError(
            f"{file}: {len(differ)} of {rows} labels differ from the task's, the first at index {first}: found "
            f"{stored[first]}, expected {own[first % count]}; the task's test images must be those of {name} in their "
            f"official order; if they are, {remedy}"
        )


def _open(file: Path, kind: str, shape: tuple[int, ...], remedy: str) -> NDArray[Any]:
    """Memory-map a .npy file, and check its kind of numbers ("uint8" or "integer") and its shape."""
    expected = f"expected {kind} {shape}"
    try:
        stored = open_memmap(file, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file}: not a whole .npy file ({error}), {expected}; {remedy}") from error
    fits = stored.dtype == np.uint8 if kind == "uint8" else stored.dtype.kind in "iu"
    if not fits or stored.shape != shape:
        raise ValueError(f"{file}: found {stored.dtype} {stored.shape}, {expected}; {remedy}")
    return stored
