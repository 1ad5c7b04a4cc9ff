"""The data of a run: its orders of the training data, and what is held out of them."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

import data
from data import ImageTask, Minibatches, Part, Task
from harness.evaluation.evaluate import evaluation_batch_size
from harness.running.distributed.group import Group
from harness.studies.run import DatasetSpec, Run
from methods.core.random_streams import stream


class RunData:
    """The data of a run; the order of a pass is a function of (seed, purpose, epoch)."""

    def __init__(self, task: Task, run: Run, group: Group, epoch: Callable[[], int]) -> None:
        """Prepare the training data.

        Args:
            task: the data, on the device.
            run: whose seed and recipe are theirs.
            group: the ranks that share the run.
            epoch: says how many epochs are trained.
        """
        self.task, self.run, self.group, self.epoch = task, run, group, epoch
        self.augmented = self.batches("data")

    def batches(self, purpose: str, *, augmented: bool = True) -> Minibatches:
        """Prepare the training data in the order of a purpose."""
        return self.task.training(
            self.run.recipe.batch_size, lambda: stream(self.run.seed, purpose, self.epoch()), augmented=augmented
        )

    def in_order(self, order: int) -> Minibatches:
        """Give the training data in one of its orders; order 0 is plain training's."""
        return self.group.part(self.shuffled(f"data {order}" if order else "data"))

    def shuffled(self, purpose: str) -> Minibatches:
        """Give the augmented training data in the order of a purpose."""
        return self.augmented.with_stream(lambda: stream(self.run.seed, purpose, self.epoch()))

    def for_statistics(self, purpose: str) -> Minibatches:
        """Give the training data on which running statistics are re-estimated."""
        if self.run.recipe.reestimate_on == "plain":
            return self.batches(purpose, augmented=False)
        return self.shuffled(purpose)

    def part(self, part: Part) -> Minibatches | None:
        """Give each example of a part of the task once; None if there are none."""
        return self.task.part(part, evaluation_batch_size(self.task))

    def held_out(self, part: Part) -> Minibatches:
        """Give each example of a part that must be there once.

        Raises:
            ValueError: if there are none.
        """
        passes = self.part(part)
        if passes is None:
            raise ValueError(
                f"{self.run.method}: {part} data are asked for, but {self.run.dataset.label} holds none out"
            )
        return passes


@lru_cache(maxsize=2)
def load_task(dataset: DatasetSpec, downloads: Path, device: torch.device, decoders: int | None = None) -> Task:
    """Load a dataset to the device; a worker keeps the last two."""
    loaded = data.load(dataset.name, root=downloads, **dataset.options())
    if isinstance(loaded, ImageTask):
        for load in loaded.ood.values():
            load()  # what evaluation needs must be there before training starts
        loaded = loaded.with_decoder_workers(decoders)
        loaded.mean[0]  # measured at its first use, which must not be in a run's seconds
    return loaded.to(device)
