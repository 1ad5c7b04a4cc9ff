"""Options of a dataset: how many examples are used, how they are changed, and what the task is tested on."""

import re
from collections.abc import Sequence
from typing import Literal, TypedDict

IMAGE_OPTIONS = ("label_noise", "cutout", "ood", "corruptions")
IMAGENET_OPTIONS = ("label_noise", "ood", "corruptions")
IMAGE_FOLDER_OPTIONS = (*IMAGENET_OPTIONS, "image_size")
TEXT_OPTIONS = ("segment",)
"""Options of each kind of dataset, besides `validation` and `train_size`."""

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that no name may have: control characters, line ends, and what stands for bytes that are no text."""


class DatasetOptions(TypedDict, total=False):
    """Keyword arguments of `load` and `dataset_shape`. An option that is left out has its default.

    Attributes:
        validation: Number of examples held out from the end of the training set. None for the dataset's default: 200
            for digits, the official part of 5 % for text, 0 for all others. For text, the number of symbols taken
            from the official validation part.
        train_size: Number of training examples, a fixed stratified subset of those not held out; None for all. For
            text, the number of symbols from its beginning.
        label_noise: Share of the training labels that are replaced by random ones, the same for all methods and seeds.
            See `data.tasks.split_dataset.add_label_noise`.
        cutout: Side, in pixels, of the square that is cut out of every training image; 0 for none.
        ood: Names of the OOD datasets: keys of `OOD_DATASETS`, names that the dataset itself provides, or "npz:PATH"
            for the user's images (an array `images` or `x_test`). None for the dataset's own and those of
            `STANDARD_OOD_DATASETS`. They are downloaded and loaded when the task's functions are called.
        corruptions: "generated" for corruptions computed here from the test images, "official" for the published
            corrupted files, or "none".
        image_size: Side of the images of an image folder, in pixels; None for 224.
        segment: Number of symbols of a text through which gradients flow back; None for 100.
    """

    validation: int | None
    train_size: int | None
    label_noise: float
    cutout: int
    ood: Sequence[str] | None
    corruptions: Literal["generated", "official", "none"]
    image_size: int | None
    segment: int | None


def check_printable(dataset: str, ood: Sequence[str] | None) -> None:
    """Check that the names of a dataset and its OOD datasets can be printed and stored.

    Raises:
        ValueError: If one has control characters, or bytes that are no text.
    """
    for name in (dataset, *(ood or ())):
        if UNPRINTABLE.search(name):
            raise ValueError(f"{name!a}: has control characters, or bytes that are no text; rename the file or folder")


def check_options(dataset: str, options: DatasetOptions, allowed: Sequence[str]) -> None:
    """Check that a dataset has all of the given options.

    Args:
        dataset: The dataset's name.
        options: The given options.
        allowed: The dataset's options besides `validation` and `train_size`.

    Raises:
        ValueError: If the dataset does not have an option; names the first one.
    """
    for name, value in options.items():
        if name not in ("validation", "train_size", *allowed) and value not in (None, 0, "generated", (), []):
            raise ValueError(
                f"{dataset} has no option {name} (={value}); it has validation, train_size, {', '.join(allowed)}"
            )


def check_cutout(dataset: str, options: DatasetOptions, side: int) -> None:
    """Check that the cutout square is smaller than the images.

    Args:
        dataset: The dataset's name.
        options: The given options.
        side: Side of the dataset's images, in pixels.

    Raises:
        ValueError: If it is not; names the largest possible side.
    """
    cutout = options.get("cutout", 0)
    if cutout >= side:
        raise ValueError(f"{dataset}: cutout={cutout} can cover whole images of {side} x {side}; at most {side - 1}")
