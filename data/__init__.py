"""Datasets and the tasks built from them.

`load` returns the task of a dataset by the dataset's name, for example "digits", "npz:images.npz" or "enwik8".
"""

from data.datasets.ood import OOD_DATASETS, STANDARD_OOD_DATASETS
from data.files.digests import KnownDigests
from data.files.image_files import ImageFiles
from data.registry import (
    DATASETS,
    SYNTHETIC,
    TEXTS,
    VERSIONS,
    WITH_PATH,
    dataset_names,
    dataset_shape,
    digest,
    load,
)
from data.tasks.batches import ImageBatches
from data.tasks.dataset_options import UNPRINTABLE, DatasetOptions
from data.tasks.image_dataset import Augmentation, ImageDataset, Split
from data.tasks.image_task import ImageTask, normalised_batches
from data.tasks.task import DatasetShape, Minibatches, Part, Task
from data.tasks.text_task import TextTask

__all__ = [
    "DATASETS",
    "OOD_DATASETS",
    "STANDARD_OOD_DATASETS",
    "SYNTHETIC",
    "TEXTS",
    "UNPRINTABLE",
    "VERSIONS",
    "WITH_PATH",
    "Augmentation",
    "DatasetOptions",
    "DatasetShape",
    "ImageBatches",
    "ImageDataset",
    "ImageFiles",
    "ImageTask",
    "KnownDigests",
    "Minibatches",
    "Part",
    "Split",
    "Task",
    "TextTask",
    "dataset_names",
    "dataset_shape",
    "digest",
    "load",
    "normalised_batches",
]
