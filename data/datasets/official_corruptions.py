"""The official corrupted test sets, read from their published files: CIFAR-10-C, CIFAR-100-C and ImageNet-C.

Nothing is downloaded here (each is 3 to 60 GB); what is missing or wrong is reported with where to get it.

References:
    Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019.
"""

from collections.abc import Callable, Iterator, Sequence
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
from data.files.image_files import ImageFiles, Images
from data.tasks.image_dataset import Split


@dataclass(frozen=True)
class Official:
    """Where an official set comes from.

    Attributes:
        folder: Name of its folder.
        record: Page of the archives.
        archives: Name of each archive, its MD5 and the corruptions in it.
    """

    folder: str
    record: str
    archives: tuple[tuple[str, str, tuple[str, ...]], ...]

    def remedy(self, root: Path, *corruptions: str) -> str:
        """How to get the files of some corruptions into a folder."""
        files = ", ".join(f"{name} (MD5 {md5})" for name, md5, held in self.archives if set(held) & set(corruptions))
        return f"get {files} from {self.record} and unpack so that the files lie in {root / self.folder}"


OFFICIAL = {
    "cifar10": Official(
        "CIFAR-10-C",
        "https://zenodo.org/records/2535967",
        (("CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499", STANDARD_CORRUPTIONS + EXTRA_CORRUPTIONS),),
    ),
    "cifar100": Official(
        "CIFAR-100-C",
        "https://zenodo.org/records/3555552",
        (("CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3", STANDARD_CORRUPTIONS + EXTRA_CORRUPTIONS),),
    ),
    "imagenet": Official(
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
"""Each dataset's official corrupted test set."""

_IMAGES = 10_000  # test images of CIFAR


def official_cifar(
    name: str, root: Path, labels: Tensor, *, corruptions: Sequence[str] = STANDARD_CORRUPTIONS
) -> Iterator[tuple[str, int, Tensor]]:
    """The official CIFAR-10-C or CIFAR-100-C, one corruption and severity at a time.

    The files are mapped into memory, and only the 10,000 images of one severity are copied out of them. All of them
    are checked before the first is given out.

    Args:
        name: "cifar10" or "cifar100".
        root: Folder that holds `CIFAR-10-C` or `CIFAR-100-C`, which hold one .npy file a corruption.
        labels: (10000,) int64, the classes of the uncorrupted test images in their order.
        corruptions: Which of the files; those of the mean corruption error by default.

    Yields:
        The corruption's name, its severity (1 to 5) and the images, (10000, 3, 32, 32) uint8, in the order of the
        test images.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file is damaged or holds something else, or the labels are not the test images' own.
    """
    return _read(name, root, labels, corruptions, _IMAGES)


def official_sets(dataset: str, root: Path, test: Split) -> Callable[[], Iterator[tuple[str, int, Images]]]:
    """The official corrupted test sets of a dataset, one corruption and severity at a time; all are checked now.

    Args:
        dataset: "cifar10", "cifar100" or "imagenet".
        root: Folder that holds `CIFAR-10-C`, `CIFAR-100-C` or `ImageNet-C`.
        test: The uncorrupted test images.

    Returns:
        A function that yields the corruption's name, its severity (1 to 5) and the images, (N, 3, S, S) uint8 or files,
        in the order of the test images.

    Raises:
        FileNotFoundError: If a folder or a file is missing.
        ValueError: If the dataset has no such sets, a file is damaged, or the labels are not the test images' own.
    """
    check_exists(dataset)
    if isinstance(test.images, Tensor):
        check_official(dataset, root, test.labels)
        return partial(official_cifar, dataset, root, test.labels)
    classes = class_names(root.expanduser() / "imagenet" / "train")
    listed = [
        (name, severity, _in_order(folder, classes, test.images, test.labels, OFFICIAL[dataset].remedy(root, name)))
        for name, severity, folder in official_imagenet(root, classes)
    ]
    return lambda: iter(listed)


def check_exists(dataset: str) -> None:
    """Refuse a dataset of which nobody has published corrupted test sets.

    Raises:
        ValueError: Naming those that have some.
    """
    if dataset not in OFFICIAL:
        raise ValueError(
            f"{dataset} has no official corrupted files: only {', '.join(OFFICIAL)} have; use `corruptions: generated`"
        )


def _in_order(folder: Path, classes: Sequence[str], test: ImageFiles, labels: Tensor, remedy: str) -> ImageFiles:
    """The corrupted images of a folder of classes, in the order of the test images, whose file names they have."""
    split = files_in_class_folders(folder, classes, test.side, resized=False)
    assert isinstance(split.images, ImageFiles)
    places = {name.rpartition(b"/")[2]: i for i, name in enumerate(split.images.names.tolist())}
    order = [places.get(name.rpartition(b"/")[2], -1) for name in test.names.tolist()]
    if missing := order.count(-1):
        raise ValueError(f"{folder}: {missing} of {len(order)} test images are not there; {remedy}")
    chosen = torch.tensor(order)
    if not torch.equal(split.labels[chosen], labels.cpu()):
        raise ValueError(f"{folder}: some images are in the folders of other classes than the test images; {remedy}")
    return split.images[chosen]


def check_official(name: str, root: Path, labels: Tensor, *, corruptions: Sequence[str] = STANDARD_CORRUPTIONS) -> None:
    """See that the files that `official_cifar` will need are there and whole; takes milliseconds.

    Args and errors are those of `official_cifar`.
    """
    _check(name, root, labels, corruptions, _IMAGES)


def official_imagenet(
    root: Path, classes: Sequence[str], *, corruptions: Sequence[str] = STANDARD_CORRUPTIONS
) -> list[tuple[str, int, Path]]:
    """The folders of the official ImageNet-C, checked to hold a folder for every class.

    Args:
        root: Folder that holds `ImageNet-C`, which holds `CORRUPTION/SEVERITY/CLASS/*.JPEG`.
        classes: Names of the class folders, as "n01440764"; there may be others.
        corruptions: Which of the corruptions; those of the mean corruption error by default.

    Returns:
        The corruption's name, its severity (1 to 5) and the folder that holds the class folders.

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
    """`official_cifar` for any number of test images."""
    _check(name, root, labels, corruptions, count)
    folder = root.expanduser() / OFFICIAL[name].folder
    for corruption in corruptions:
        stored = open_memmap(folder / f"{corruption}.npy", mode="r")
        for severity in SEVERITIES:
            block = np.array(stored[(severity - 1) * count : severity * count])  # (N, H, W, C), copied from the file
            yield corruption, severity, torch.from_numpy(block).permute(0, 3, 1, 2)
            del block  # before the next one is copied


def _check(name: str, root: Path, labels: Tensor, corruptions: Sequence[str], count: int) -> None:
    """`check_official` for any number of test images."""
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
    """See that the file has the task's labels five times over."""
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
    """Map a .npy file into memory and see that it holds numbers of this kind ("uint8" or "integer") and shape."""
    expected = f"expected {kind} {shape}"
    try:
        stored = open_memmap(file, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file}: not a whole .npy file ({error}), {expected}; {remedy}") from error
    fits = stored.dtype == np.uint8 if kind == "uint8" else stored.dtype.kind in "iu"
    if not fits or stored.shape != shape:
        raise ValueError(f"{file}: found {stored.dtype} {stored.shape}, {expected}; {remedy}")
    return stored
