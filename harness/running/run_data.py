"""The data of a run: its training data in several random orders, and its held-out data."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

import data
from data import ImageFiles, ImageTask, Minibatches, Part, Task
from harness.cache.user_cache import DigestCache
from harness.evaluation.evaluate import evaluation_batch_size
from harness.running.distributed.group import Group
from harness.studies.run import DatasetSpec, Run
from methods.core.random_streams import stream

START_AGAIN = "start the command again"
PLAN_ANEW = f"it would not give the run that its key stands for: {START_AGAIN}, which plans it anew"
"""What to do about a file that is not what a run was planned with."""


class RunData:
    """The data of a run. The order and augmentation of a pass depend only on (seed, purpose, epoch)."""

    def __init__(self, task: Task, run: Run, group: Group, epoch: Callable[[], int]) -> None:
        """Prepare the training data.

        Args:
            task: the data, on the device.
            run: the run's spec, with its seed and recipe.
            group: the ranks that train the run together.
            epoch: returns how many epochs are done.
        """
        self.task, self.run, self.group, self.epoch = task, run, group, epoch
        self.augmented = self.batches("data")

    def batches(self, purpose: str, *, augmented: bool = True) -> Minibatches:
        """Return the training data in the order of a purpose, whole minibatches on every rank."""
        return self.task.training(self.run.recipe.batch_size, self.stream(purpose), augmented=augmented)

    def stream(self, purpose: str) -> Callable[[], torch.Generator]:
        """Return a function that returns a purpose's generator of the current epoch."""
        seed, epoch = self.run.seed, self.epoch  # not `self`, which holds minibatches that hold this function
        return lambda: stream(seed, purpose, epoch())

    def training(self, order: int) -> Minibatches:
        """Return this rank's part of the training data in one of its orders; order 0 is that of plain training."""
        return self.group.divide(self.shuffled(f"data {order}" if order else "data"))

    def shuffled(self, purpose: str) -> Minibatches:
        """Return the augmented training data in the order of a purpose."""
        return self.augmented.with_stream(self.stream(purpose))

    def for_statistics(self, purpose: str) -> Minibatches:
        """Return the training data on which running statistics are re-estimated, augmented or plain by the recipe."""
        if self.run.recipe.reestimate_on == "plain":
            return self.batches(purpose, augmented=False)
        return self.shuffled(purpose)

    def part(self, part: Part) -> Minibatches | None:
        """Return each example of a part of the task once; None if the part is empty."""
        return self.task.part(part, evaluation_batch_size(self.task))

    def held_out(self, part: Part) -> Minibatches:
        """Return each example of a part of the task once.

        Raises:
            ValueError: if the part is empty.
        """
        passes = self.part(part)
        if passes is None:
            raise ValueError(
                f"{self.run.method}: {part} data are asked for, but {self.run.dataset.label} holds none out"
            )
        return passes


def load_task(dataset: DatasetSpec, downloads: Path, device: torch.device, decoders: int | None = None) -> Task:
    """Load a dataset to the device. A process keeps the last two datasets.

    Args:
        dataset: the dataset's spec.
        downloads: the folder of datasets.
        device: the device.
        decoders: processes that decode image files; None for one per CPU, 0 to decode in this process.

    Raises:
        ValueError: if its files are not those that the run was planned with.
    """
    task = load_cached_task(dataset, downloads, device, decoders)
    try:
        check_files(dataset, task)  # after loading: a file may have been replaced meanwhile
    except (ValueError, OSError):
        load_cached_task.cache_clear()  # the task may hold what the files held for a moment
        raise
    return task


@lru_cache(maxsize=2)
def load_cached_task(dataset: DatasetSpec, downloads: Path, device: torch.device, decoders: int | None) -> Task:
    """Do the work of `load_task`, which checks the files."""
    loaded = data.load(dataset.name, root=downloads, known=DigestCache(), **dataset.options())
    if isinstance(loaded, ImageTask):
        for load in loaded.ood.values():
            load()  # loads or downloads before training starts what evaluation needs
        loaded = loaded.with_decoder_workers(decoders)
        loaded.mean[0]  # the first use measures it; that must not count as a run's time
    return loaded.to(device)


def check_files(dataset: DatasetSpec, task: Task) -> None:
    """Check that the files of a dataset are those that a run's key stands for, and those that its task was loaded from.

    Raises:
        ValueError: naming the file that was changed.
    """
    check_digest(dataset.name, dataset.digest)
    for name, digest in zip(dataset.ood or (), dataset.ood_digests, strict=False):
        check_digest(name, digest)
    check_official_files(task)


def check_files_in_training(dataset: DatasetSpec, task: Task) -> None:
    """Check image files, which training reads until its end. All others were read when the task was loaded.

    Raises:
        ValueError: naming the folder that was changed.
    """
    if isinstance(task, ImageTask) and isinstance(task.train.images, ImageFiles):
        check_digest(dataset.name, dataset.digest)


def check_digest(name: str, digest: str | None) -> None:
    """Check that a dataset that is given by a path has the content with this digest; None or "" for no check."""
    if not digest:
        return
    path = Path(name.partition(":")[2]).absolute()
    try:
        found = data.digest(name, DigestCache())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read any more ({error}); {PLAN_ANEW}") from error
    if found != digest:
        raise ValueError(f"{path}: was changed after this run was planned; {PLAN_ANEW}")


def check_official_files(task: Task) -> None:
    """Check that the official corrupted test sets of a task are those that were loaded; no key names them.

    Raises:
        ValueError: naming the file that was changed.
    """
    official = task.official if isinstance(task, ImageTask) else None
    if official and official.compute_digest(DigestCache()) != official.digest:
        raise ValueError(f"{task.name}: the official corrupted files were changed while they were used; {START_AGAIN}")
