"""The recipe: how a network is trained plainly, with epochs, learning rate, optimizer and criterion."""

import itertools
import math
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

Position = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, le=1)]
"""A position in training: an integer is an epoch, and a float is a fraction of all epochs (0.6 of 200 is 120)."""


def epoch_at(position: int | float, epochs: int) -> int:
    """Return the epoch of a position, counted from 0.

    Args:
        position: an epoch (int), or a fraction of all epochs (float in [0, 1]).
        epochs: the number of epochs of training.
    """
    return position if isinstance(position, int) else round(position * epochs)


def check_position(position: int | float, epochs: int, name: str) -> None:
    """Check that a position lies within training.

    Args:
        position: an epoch (int), or a fraction of all epochs (float in [0, 1]).
        epochs: the number of epochs of training.
        name: the position's name for the error message.

    Raises:
        ValueError: if it lies beyond the end.
    """
    if not 0 <= epoch_at(position, epochs) <= epochs:
        raise ValueError(f"{name} {position} is beyond the {epochs} epochs of training")


def start_epoch_at(position: int | float, epochs: int) -> int:
    """Return the epoch T0 in which a method starts; a fraction below 1 leaves at least one epoch.

    Args:
        position: an epoch (int), or a fraction of all epochs (float in [0, 1]).
        epochs: the number of epochs of training.

    Raises:
        ValueError: if training has no such epoch.
    """
    epoch = epoch_at(position, epochs)
    if isinstance(position, float) and 0 <= position < 1:
        epoch = min(epoch, epochs - 1)
    if not 0 <= epoch < epochs:
        raise ValueError(f"start {position} is epoch {epoch}, but training has only epochs 0 to {epochs - 1}")
    return epoch


class FrozenModel(BaseModel):
    """A pydantic model that is immutable and refuses unknown keys and infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Constant(FrozenModel):
    """A schedule that keeps the learning rate constant."""

    kind: Literal["constant"] = "constant"

    def check(self, epochs: int) -> None:
        """Accept any number of epochs."""

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch."""
        return 1.0


class Linear(FrozenModel):
    """A schedule that falls linearly, epoch by epoch, from `start` to `end`, and stays (Izmailov et al., 2018).

    The late-phase paper keeps 0.1 to epoch 100 of 200, and falls linearly to 0.001 at epoch 180 (its appendix A).
    """

    kind: Literal["linear"]
    start: Position = 0.5
    end: Position = 0.9
    ratio: Annotated[float, Field(gt=0)] = 0.01

    def check(self, epochs: int) -> None:
        """Refuse positions beyond the end of training, or in the wrong order."""
        check_position(self.start, epochs, "schedule: start")
        check_position(self.end, epochs, "schedule: end")
        if epoch_at(self.end, epochs) < epoch_at(self.start, epochs):
            raise ValueError(f"schedule: end {self.end} lies before start {self.start}")

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch."""
        start, end = epoch_at(self.start, epochs), epoch_at(self.end, epochs)
        progress = min(max((epoch - start) / max(end - start, 1), 0.0), 1.0)
        return 1.0 + (self.ratio - 1.0) * progress


class Step(FrozenModel):
    """A schedule that multiplies the learning rate by `ratio` at each milestone."""

    kind: Literal["step"]
    milestones: tuple[Position, ...]
    ratio: Annotated[float, Field(gt=0)] = 0.2

    def check(self, epochs: int) -> None:
        """Refuse milestones beyond the end of training."""
        for milestone in self.milestones:
            check_position(milestone, epochs, "schedule: milestone")

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch."""
        return float(self.ratio ** sum(epoch >= epoch_at(m, epochs) for m in self.milestones))


class Cosine(FrozenModel):
    """A schedule that warms up linearly, then falls along half a cosine, by epoch (Loshchilov & Hutter, 2016)."""

    kind: Literal["cosine"]
    warmup: Annotated[int, Field(ge=0)] = 0

    def check(self, epochs: int) -> None:
        """Refuse a warm-up as long as training, or longer."""
        if self.warmup >= epochs:
            raise ValueError(f"schedule: a warm-up of {self.warmup} epochs does not end in {epochs} epochs")

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch."""
        if epoch < self.warmup:
            return (epoch + 1) / self.warmup
        return 0.5 * (1.0 + math.cos(math.pi * (epoch - self.warmup) / max(epochs - self.warmup, 1)))


SingleSchedule = Constant | Linear | Step | Cosine
"""A schedule that is not a sequence of others."""


class Stage(FrozenModel):
    """A part of training with a schedule of its own.

    Attributes:
        epochs: the number of epochs of the stage.
        ratio: the learning rate at its beginning, relative to the recipe's.
        schedule: the schedule of its epochs; positions count from the beginning of the stage.
    """

    epochs: Annotated[int, Field(ge=1)]
    ratio: Annotated[float, Field(gt=0)] = 1.0
    schedule: Annotated[SingleSchedule, Field(discriminator="kind")] = Constant()


class Stages(FrozenModel):
    """A sequence of schedules, each of which begins with a new optimizer, as if a finished run were trained further.

    The late-phase paper trains for 20 epochs after the first 200. The rate falls from 0.01 linearly to 0.001 in 10
    epochs, then stays (its appendix B, Table 9).
    """

    kind: Literal["stages"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    def check(self, epochs: int) -> None:
        """Refuse stages that together are shorter or longer than training."""
        total = sum(stage.epochs for stage in self.stages)
        if total != epochs:
            raise ValueError(f"schedule: the stages have {total} epochs, training has {epochs}")
        for stage in self.stages:
            stage.schedule.check(stage.epochs)

    def later_stage_starts(self) -> list[int]:
        """Return the epochs in which the second and later stages begin."""
        return list(itertools.accumulate(stage.epochs for stage in self.stages))[:-1]

    def factor(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch."""
        for stage in self.stages[:-1]:
            if epoch < stage.epochs:
                break
            epoch -= stage.epochs
        else:
            stage = self.stages[-1]
        return stage.ratio * stage.schedule.factor(epoch, stage.epochs)


Schedule = Annotated[SingleSchedule | Stages, Field(discriminator="kind")]


class Recipe(FrozenModel):
    """How a network is trained plainly; each method changes some of it."""

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.1
    schedule: Schedule = Constant()
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    initial: Literal["random", "imagenet1k_v1"] = "random"
    """Initial weights: drawn at random, or torchvision's of this name, as in the late-phase paper's fine-tuning."""
    reestimate_on: Literal["augmented", "plain"] = "augmented"
    """Whether running statistics are re-estimated on augmented training data, as in all three papers, or on plain."""

    @model_validator(mode="after")
    def check_schedule(self) -> Self:
        """Refuse a schedule that does not fit the number of epochs."""
        self.schedule.check(self.epochs)
        return self

    def resets_optimizer(self, epoch: int) -> bool:
        """Check whether the optimizer's state (momentum) is reset at the beginning of an epoch."""
        return isinstance(self.schedule, Stages) and epoch in self.schedule.later_stage_starts()

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at a position in training; it is constant within an epoch, as in all three papers.

        Args:
            epoch: whole epochs since the start of training, plus the fraction of the current one.
        """
        return self.lr * self.schedule.factor(math.floor(epoch), self.epochs)

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the training loss: the mean cross-entropy, in nats.

        Args:
            logits: (B, C).
            y: (B,), the class of each example.
        """
        if logits.dim() > 2 and logits.is_cuda and torch.are_deterministic_algorithms_enabled():
            logits, y = (
                logits.movedim(1, -1).flatten(0, -2),
                y.flatten(),
            )  # on a GPU torch has no such algorithm for text
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def count_examples(self, x: Tensor) -> int:
        """Return the number of examples of a minibatch, including those that other processes have of it.

        Args:
            x: (B, …), this process's part of the minibatch.
        """
        return len(x)
