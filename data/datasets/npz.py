"""Reads the user's own images from a NumPy .npz file."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.corruptions import STANDARD_CORRUPTIONS
from data.datasets.downloaded import channels_first
from data.files.npz_arrays import Array, printable, read_npz
from data.tasks.image_dataset import Augmentation, ImageDataset, Split

_IMAGES = "uint8 images (N, H, W) or (N, H, W, C) with H = W, C 1 or 3, N at least 1"
_PREFIX = "ood_"
OOD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
OOD_NAME_RULE = (
    "an OOD dataset's name may have letters without accents, digits, '_', '.' and '-', and does not begin with a '.'"
)


def load_npz(path: str, root: Path) -> ImageDataset:
    """Read images and labels from a .npz file. All arrays are checked before any is used.

    The file holds `x_train` and `x_test`, square uint8 images (N, H, W) or (N, H, W, C) with C 1 or 3, and `y_train`
    and `y_test`, integer labels (N,). The training labels are 0, 1, … without gaps. Optional arrays are `ood_NAME`,
    uint8 images of the same shape, which become the OOD dataset NAME, and `classes`, the names of the classes. Other
    arrays are ignored. Nothing in the file is executed.

    The augmentation is our choice. Colour images of 32 pixels or more are padded by 4 pixels and mirrored, like
    CIFAR's. All others are padded by an eighth of their side (at least one pixel) and not mirrored, because mirroring
    may change the meaning of digits, letters and medical images.

    Args:
        path: The file.
        root: Not used.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a .npz file or its arrays are wrong; names every problem.
    """
    file = Path(path).expanduser()
    found = read_npz(file, _is_used, "a .npz file with x_train, y_train, x_test, y_test")
    arrays, problems = found.arrays, found.problems
    for name in ("x_train", "y_train", "x_test", "y_test"):
        if name not in found.names:
            problems.append(f"{name}: missing, the file holds {found.held}")
    shapes = {name: _image_shape(name, arrays, problems) for name in arrays if _is_image_array(name)}
    expected = shapes.get("x_train")
    for name, shape in shapes.items():
        if expected is not None and shape is not None and shape != expected:
            problems.append(
                f"{printable(name)}: found images of shape {shape} (H, W, C), expected x_train's {expected}"
            )
    for name in arrays:
        if name.startswith(_PREFIX) and not OOD_NAME.fullmatch(name.removeprefix(_PREFIX)):
            problems.append(f"{printable(name)}: {OOD_NAME_RULE}")
    for part in ("train", "test"):
        _check_labels(part, arrays, problems)
    classes = _check_classes(arrays, problems)
    if problems:
        raise ValueError("\n  ".join([f"{file}: {len(problems)} problem(s)", *problems]))
    assert expected is not None
    side, _, channels = expected
    like_cifar = channels == 3 and side >= 32
    return ImageDataset(
        classes=classes,
        train=_split(arrays["x_train"], arrays["y_train"]),
        test=_split(arrays["x_test"], arrays["y_test"]),
        augmentation=Augmentation(padding=4 if like_cifar else max(1, side // 8), flip=like_cifar),
        validation=0,
        ood={
            name.removeprefix(_PREFIX): partial(channels_first, images)  # read with the others: the file may change
            for name, images in arrays.items()
            if name.startswith(_PREFIX)
        },
        corruptions=STANDARD_CORRUPTIONS,
    )


def load_npz_ood_images(file: Path) -> Tensor:
    """Load an OOD dataset from a .npz file: the array `images`, or `x_test` if there is no `images`.

    Args:
        file: The file. Any file that `load_npz` reads has `x_test` and can be used.

    Returns:
        (M, C, H, W) uint8.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a .npz file, or the array is missing or wrong.
    """
    file = file.expanduser()
    expected = "a .npz file with an array `images` or `x_test`"
    found = read_npz(file, lambda name: name in ("images", "x_test"), expected)
    name = next((name for name in ("images", "x_test") if name in found.names), None)
    if name is None:
        raise ValueError(f"{file}: holds {found.held}, expected {expected}")
    if name not in found.arrays or _image_shape(name, found.arrays, found.problems) is None:
        raise ValueError(f"{file}: {next(problem for problem in found.problems if problem.startswith(f'{name}:'))}")
    return channels_first(found.arrays[name])


def _is_used(name: str) -> bool:
    return _is_image_array(name) or name in ("y_train", "y_test", "classes")


def _is_image_array(name: str) -> bool:
    return name in ("x_train", "x_test") or name.startswith(_PREFIX)


def _image_shape(name: str, arrays: dict[str, Array], problems: list[str]) -> tuple[int, int, int] | None:
    """Return (H, W, C) of an array of images; note the problem and return None if it holds no images."""
    array = arrays[name]
    found = f"{printable(name)}: found {array.dtype} {array.shape}"
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        hint = "; scale to 0…255 and convert" if array.dtype.kind == "f" else ""
        problems.append(f"{found}, expected {_IMAGES}{hint}")
        return None
    height, width, channels = array.shape[1], array.shape[2], array.shape[3] if array.ndim == 4 else 1
    if channels not in (1, 3):
        problems.append(f"{found}, expected {_IMAGES}; channels come last")
        return None
    if height != width:
        problems.append(f"{found}, expected square images; crop or pad them, only H = W is supported")
        return None
    return height, width, channels


def _check_labels(part: str, arrays: dict[str, Array], problems: list[str]) -> None:
    """Note the problems of the labels of one part, "train" or "test"."""
    labels, images = arrays.get(f"y_{part}"), arrays.get(f"x_{part}")
    if labels is None:
        return
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        problems.append(f"y_{part}: found {labels.dtype} {labels.shape}, expected integer labels (N,)")
        del arrays[f"y_{part}"]
        return
    if images is not None and images.ndim > 0 and len(labels) != len(images):
        problems.append(f"y_{part}: found {len(labels)} labels, expected {len(images)}, one an image of x_{part}")
    if labels.size and labels.min() < 0:
        problems.append(f"y_{part}: found a label {labels.min()}, expected labels from 0 on")
        del arrays[f"y_{part}"]


def _check_classes(arrays: dict[str, Array], problems: list[str]) -> int:
    """Return the number of classes; note gaps in the labels, unknown test labels and a wrong array `classes`."""
    labels = arrays.get("y_train")
    if labels is None or labels.size == 0:
        return 0
    present = np.unique(labels)
    top = int(present[-1])
    if len(present) != top + 1:
        gaps = np.setdiff1d(np.arange(len(present)), present)[:5]
        problems.append(
            f"y_train: found {len(present)} classes with labels up to {top}, expected 0 to "
            f"{len(present) - 1} without gaps; missing are {', '.join(map(str, gaps))}"
        )
        return 0
    tested = arrays.get("y_test")
    if tested is not None and tested.size and int(tested.max()) > top:
        problems.append(f"y_test: found a label {tested.max()}, expected 0 to {top}, the classes of y_train")
    names = arrays.get("classes")
    if names is not None and names.shape != (top + 1,):
        problems.append(f"classes: found shape {names.shape}, expected ({top + 1},), one name a class of y_train")
    return top + 1


def _split(images: Array, labels: Array) -> Split:
    return Split(channels_first(images), torch.from_numpy(labels.astype(np.int64)))
