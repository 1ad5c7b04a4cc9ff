"""How much of a dataset is used, how, and what it is tested against: what may be said besides its name."""

from collections.abc import Sequence
from typing import Literal, TypedDict

IMAGE_OPTIONS = ("label_noise", "cutout", "ood", "corruptions")
IMAGENET_OPTIONS = ("label_noise", "ood", "corruptions")
IMAGE_FOLDER_OPTIONS = (*IMAGENET_OPTIONS, "image_size")
TEXT_OPTIONS = ("segment",)
"""The options that kinds of datasets have besides `validation` and `train_size`."""


class DatasetOptions(TypedDict, total=False):
    """What `load` and `dataset_shape` take besides a dataset's name; an option left out has its default.

    Attributes:
        validation: Number of examples held out from the end of the training set; None for the dataset's default (200
            for digits, the official part of 5 % for text, 0 for all others). Of text, symbols of that part.
        train_size: Train on this many examples only, a fixed stratified subset of those not held out; None for all. Of
            text, its first symbols.
        label_noise: Share of the training labels that are replaced by random ones, the same for all methods and seeds;
            `data.tasks.split_dataset.noisy_labels` says which and by what.
        cutout: Side, in pixels, of the square that every training image loses; 0 for none.
        ood: Names of the companions, from `OOD_DATASETS` or the dataset's own, or "npz:PATH" for the user's images
            (an array `images` or `x_test`); None for the dataset's own and its `STANDARD_OOD_DATASETS` ones. They are loaded, and
            downloaded, when the task's functions are called.
        corruptions: "generated" here from the test images, the "official" corrupted files, or "none".
        image_size: Side of the images of an image folder, in pixels; None for 224.
        segment: Symbols of a text through which gradients flow back; None for 100.
    """

    validation: int | None
    train_size: int | None
    label_noise: float
    cutout: int
    ood: Sequence[str] | None
    corruptions: Literal["generated", "official", "none"]
    image_size: int | None
    segment: int | None


def check_options(dataset: str, options: DatasetOptions, allowed: Sequence[str]) -> None:
    """Refuse options that mean nothing for a dataset.

    Args:
        dataset: Its name.
        options: What was asked for.
        allowed: Names of options that it has besides `validation` and `train_size`.

    Raises:
        ValueError: Naming the first that it does not have.
    """
    for name, value in options.items():
        if name not in ("validation", "train_size", *allowed) and value not in (None, 0, "generated", (), []):
            raise ValueError(
                f"{dataset} has no option {name} (={value}); it has validation, train_size, {', '.join(allowed)}"
            )


def check_cutout(dataset: str, options: DatasetOptions, side: int) -> None:
    """Refuse a cutout that can leave nothing of an image.

    Args:
        dataset: Its name.
        options: What was asked for.
        side: Of its images, in pixels.

    Raises:
        ValueError: Naming what is possible.
    """
    cutout = options.get("cutout", 0)
    if cutout >= side:
        raise ValueError(f"{dataset}: cutout={cutout} can cover whole images of {side} x {side}; at most {side - 1}")
