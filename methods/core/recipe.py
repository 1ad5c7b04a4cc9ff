"""The recipe: how a network is trained plainly, with epochs, learning rate, optimizer and criterion."""

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor
from torch.nn import functional as F

BOOLEAN, NO_NUMBER = "boolean", "expected a number, not true or false"
"""The type and the message of the error for a boolean in the place of a number."""
MOST_EPOCHS = 20_000
"""Largest number of epochs of a training: each is planned by itself."""
Position = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, le=1)]
"""A position in training: an integer is an epoch, and a float is a fraction of all epochs (0.6 of 200 is 120)."""


def epoch_at(position: int | float, epochs: int) -> int:
    """Return the epoch of a `Position` in a training of so many epochs, counted from 0."""
    return position if isinstance(position, int) else round(position * epochs)


def check_position(position: int | float, epochs: int, name: str) -> None:
    """Check that a `Position` lies within a training of so many epochs.

    Raises:
        ValueError: if it lies beyond the end; the message calls it `name`.
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


def takes_numbers(kind: Any) -> bool:
    """Return whether a type has numbers among its parts, and neither booleans nor anything at all."""
    parts = list(walk_type(kind))
    return any(part in (int, float) for part in parts) and not any(part in (bool, Any) for part in parts)


def walk_type(kind: Any) -> Iterator[Any]:
    """Yield a type and the types that it is made of."""
    yield kind
    for part in get_args(kind):
        yield from walk_type(part)


def is_boolean_for_number(value: Any, kind: Any) -> bool:
    """Return whether true or false stand in the place of a number, which pydantic would read as 1 or 0.

    Args:
        value: a value, or a list of values.
        kind: the type that it is to have.
    """
    items = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, bool) for item in items) and takes_numbers(kind)


class CheckedModel(BaseModel):
    """A pydantic model that refuses unknown keys, infinite numbers, and booleans in the place of numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def refuse_booleans(cls, values: Any) -> Any:
        """Refuse booleans in the place of numbers. The error's context names the field."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            if is_boolean_for_number(values.get(name), field.annotation):
                raise PydanticCustomError(BOOLEAN, NO_NUMBER, {"field": name})
        return values


class FrozenModel(CheckedModel):
    """An immutable pydantic model that refuses the same."""

    model_config = ConfigDict(frozen=True)


class ScheduleWithWarmUp(FrozenModel):
    """What all schedules of a single kind have in common: a linear warm-up, in which the rate rises to its value.

    Attributes:
        warmup: the number of epochs of the warm-up.
        warmup_by: "epoch": the rate of epoch e (from 0) is (e + 1) / warmup of its value (Wortsman et al., 2021).
            "minibatch": it rises from zero with every minibatch (BatchEnsemble, Wen et al., 2020).
    """

    warmup: Annotated[int, Field(ge=0)] = 0
    warmup_by: Literal["epoch", "minibatch"] = "epoch"

    def check(self, epochs: int) -> None:
        """Refuse a warm-up as long as training, or longer."""
        if self.warmup and self.warmup >= epochs:
            raise ValueError(f"schedule: a warm-up of {self.warmup} epochs does not end in {epochs} epochs")

    def factor(self, position: float, epochs: int) -> float:
        """Return the factor on the learning rate at a position in training.

        Args:
            position: whole epochs since the start of training, plus the fraction of the current one.
            epochs: the number of epochs of training.
        """
        return self.warmup_factor(position) * self.value(math.floor(position), epochs)

    def warmup_factor(self, position: float) -> float:
        """Return the factor of the warm-up alone; 1 after it."""
        if position >= self.warmup:
            return 1.0
        return (math.floor(position) + 1 if self.warmup_by == "epoch" else position) / self.warmup

    def value(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch, without the warm-up."""
        return 1.0

    def highest(self, epochs: int) -> float:
        """Return the largest factor on the learning rate in any epoch, without the warm-up."""
        return max(self.value(epoch, epochs) for epoch in range(epochs))


class Constant(ScheduleWithWarmUp):
    """A schedule that keeps the learning rate constant."""

    kind: Literal["constant"] = "constant"


class Linear(ScheduleWithWarmUp):
    """A schedule that falls linearly, epoch by epoch, from `start` to `end`, and stays (Izmailov et al., 2018).

    The late-phase paper keeps 0.1 to epoch 100 of 200, and falls linearly to 0.001 at epoch 180 (its appendix A).
    """

    kind: Literal["linear"]
    start: Position = 0.5
    end: Position = 0.9
    ratio: Annotated[float, Field(gt=0)] = 0.01

    def check(self, epochs: int) -> None:
        """Refuse positions beyond the end of training, or in the wrong order."""
        super().check(epochs)
        check_position(self.start, epochs, "schedule: start")
        check_position(self.end, epochs, "schedule: end")
        if epoch_at(self.end, epochs) < epoch_at(self.start, epochs):
            raise ValueError(f"schedule: end {self.end} lies before start {self.start}")

    def value(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch, without the warm-up."""
        start, end = epoch_at(self.start, epochs), epoch_at(self.end, epochs)
        progress = float(epoch >= end) if epoch >= end or epoch <= start else (epoch - start) / (end - start)
        return 1.0 + (self.ratio - 1.0) * progress


class Step(ScheduleWithWarmUp):
    """A schedule that multiplies the learning rate by `ratio` at each milestone."""

    kind: Literal["step"]
    milestones: tuple[Position, ...]
    ratio: Annotated[float, Field(gt=0)] = 0.2

    def check(self, epochs: int) -> None:
        """Refuse milestones beyond the end of training."""
        super().check(epochs)
        for milestone in self.milestones:
            check_position(milestone, epochs, "schedule: milestone")

    def value(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch, without the warm-up."""
        return float(self.ratio ** sum(epoch >= epoch_at(m, epochs) for m in self.milestones))


class Cosine(ScheduleWithWarmUp):
    """A schedule that falls along half a cosine after the warm-up, by epoch (Loshchilov & Hutter, 2016)."""

    kind: Literal["cosine"]

    def value(self, epoch: int, epochs: int) -> float:
        """Return the factor on the learning rate in an epoch, without the warm-up."""
        after = max(epoch - self.warmup, 0)
        return 0.5 * (1.0 + math.cos(math.pi * after / max(epochs - self.warmup, 1)))


SingleSchedule = Constant | Linear | Step | Cosine
"""A schedule that is not a sequence of others."""


class Stage(FrozenModel):
    """A part of training with a schedule of its own.

    Attributes:
        epochs: the number of epochs of the stage.
        ratio: the learning rate at its beginning, relative to the recipe's.
        schedule: the schedule of its epochs; positions count from the beginning of the stage.
        optimizer: whether a later stage begins with a "new" optimizer, or keeps the "same".
    """

    epochs: Annotated[int, Field(ge=1)]
    ratio: Annotated[float, Field(gt=0)] = 1.0
    schedule: Annotated[SingleSchedule, Field(discriminator="kind")] = Constant()
    optimizer: Literal["new", "same"] = "new"


class Stages(FrozenModel):
    """A sequence of schedules. Each begins with a new optimizer, as if a finished run were trained further, or not.

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

    def new_optimizer_epochs(self) -> list[int]:
        """Return the epochs in which a later stage begins with a new optimizer."""
        starts = itertools.accumulate(stage.epochs for stage in self.stages)
        return [start for start, stage in zip(starts, self.stages[1:], strict=False) if stage.optimizer == "new"]

    def stage_at(self, position: float) -> tuple[Stage, float]:
        """Return the stage of a position in training, and the position in it."""
        for stage in self.stages[:-1]:
            if position < stage.epochs:
                return stage, position
            position -= stage.epochs
        return self.stages[-1], position

    def factor(self, position: float, epochs: int) -> float:
        """Return the factor on the learning rate at a position in training."""
        stage, position = self.stage_at(position)
        return stage.ratio * stage.schedule.factor(position, stage.epochs)

    def warmup_factor(self, position: float) -> float:
        """Return the factor of the warm-up of the first stage alone: that of training."""
        return self.stages[0].schedule.warmup_factor(position)

    def highest(self, epochs: int) -> float:
        """Return the largest factor on the learning rate in any epoch, without warm-ups."""
        return max(stage.ratio * stage.schedule.highest(stage.epochs) for stage in self.stages)


Schedule = Annotated[SingleSchedule | Stages, Field(discriminator="kind")]


class Recipe(FrozenModel):
    """How a network is trained plainly; each method changes some of it."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
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

    def check_rates(self) -> None:
        """Refuse learning rates that are too large for a number.

        Raises:
            ValueError: naming the first epoch with such a rate.
        """
        for epoch in range(self.epochs):
            try:
                finite = math.isfinite(self.learning_rate(epoch))
            except OverflowError:
                finite = False
            if not finite:
                raise ValueError(f"schedule: the learning rate of epoch {epoch} is infinite; take smaller ratios")

    def resets_optimizer(self, epoch: int) -> bool:
        """Check whether the optimizer's state (momentum) is reset at the beginning of an epoch."""
        return isinstance(self.schedule, Stages) and epoch in self.schedule.new_optimizer_epochs()

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate, constant within an epoch as in all three papers but for a warm-up by minibatches.

        Args:
            epoch: whole epochs since the start of training, plus the fraction of the current one.
        """
        return self.lr * self.schedule.factor(epoch, self.epochs)

    @property
    def highest_rate(self) -> float:
        """The highest learning rate of any epoch, without warm-ups: of it, methods with schedules of their own."""
        return self.lr * self.schedule.highest(self.epochs)

    def warmup_factor(self, epoch: float) -> float:
        """Return the factor of the first warm-up on the learning rate; methods with a schedule of their own keep it.

        Args:
            epoch: whole epochs since the start of training, plus the fraction of the current one.
        """
        return self.schedule.warmup_factor(epoch)

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the training loss: the mean cross-entropy, in nats.

        Args:
            logits: (B, C).
            y: (B,), the class of each example.
        """
        if logits.dim() > 2 and logits.is_cuda and torch.are_deterministic_algorithms_enabled():
            logits, y = logits.movedim(1, -1).flatten(0, -2), y.flatten()  # torch has no such algorithm for text
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def count_examples(self, x: Tensor) -> int:
        """Return the number of examples of a minibatch, including those that other processes have of it.

        Args:
            x: (B, …), this process's part of the minibatch.
        """
        return len(x)
