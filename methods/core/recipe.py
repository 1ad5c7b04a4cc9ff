"""The recipe: how a network is trained plainly (epochs, rate, optimizer, criterion)."""

import itertools
import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F

Position = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, le=1)]
"""A place in training: a whole number is an epoch, a fraction is a part of all epochs (0.6 of 200 is 120)."""


def epoch_at(position: int | float, epochs: int) -> int:
    """Turn a position into an epoch, counted from 0.

    Args:
        position: an epoch (int), or a fraction of all epochs (float in [0, 1]).
        epochs: the length of training.
    """
    return position if isinstance(position, int) else round(position * epochs)


def check_position(position: int | float, epochs: int, name: str) -> None:
    """Refuse a position beyond the end of training.

    Raises:
        ValueError: naming it.
    """
    if not 0 <= epoch_at(position, epochs) <= epochs:
        raise ValueError(f"{name} {position} is beyond the {epochs} epochs of training")


def start_at(position: int | float, epochs: int) -> int:
    """Turn a method's start T0 into an epoch; a fraction below 1 leaves at least one epoch.

    Raises:
        ValueError: when training would be over before it.
    """
    epoch = epoch_at(position, epochs)
    if isinstance(position, float) and 0 <= position < 1:
        epoch = min(epoch, epochs - 1)
    if not 0 <= epoch < epochs:
        raise ValueError(f"start {position} is epoch {epoch}, but training has only epochs 0 to {epochs - 1}")
    return epoch


class FrozenModel(BaseModel):
    """A frozen piece of a recipe; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Constant(FrozenModel):
    """The rate stays as it is."""

    kind: Literal["constant"] = "constant"

    def check(self, epochs: int) -> None:
        """Accept any length of training."""

    def factor(self, epoch: int, epochs: int) -> float:
        """Give the rate's factor in an epoch."""
        return 1.0


class Linear(FrozenModel):
    """The rate falls linearly, epoch by epoch, from `start` to `end`, then stays (Izmailov et al., 2018).

    The late-phase paper's schedule: 0.1 to epoch 100 of 200, linearly to 0.001 at 180 (its appendix A).
    """

    kind: Literal["linear"]
    start: Position = 0.5
    end: Position = 0.9
    ratio: Annotated[float, Field(gt=0)] = 0.01

    def check(self, epochs: int) -> None:
        """Refuse places beyond the end, or in the wrong order."""
        check_position(self.start, epochs, "schedule: start")
        check_position(self.end, epochs, "schedule: end")
        if epoch_at(self.end, epochs) < epoch_at(self.start, epochs):
            raise ValueError(f"schedule: end {self.end} lies before start {self.start}")

    def factor(self, epoch: int, epochs: int) -> float:
        """Give the rate's factor in an epoch."""
        start, end = epoch_at(self.start, epochs), epoch_at(self.end, epochs)
        progress = min(max((epoch - start) / max(end - start, 1), 0.0), 1.0)
        return 1.0 + (self.ratio - 1.0) * progress


class Step(FrozenModel):
    """The rate is multiplied by `ratio` at each milestone."""

    kind: Literal["step"]
    milestones: tuple[Position, ...]
    ratio: Annotated[float, Field(gt=0)] = 0.2

    def check(self, epochs: int) -> None:
        """Refuse milestones beyond the end."""
        for milestone in self.milestones:
            check_position(milestone, epochs, "schedule: milestone")

    def factor(self, epoch: int, epochs: int) -> float:
        """Give the rate's factor in an epoch."""
        return float(self.ratio ** sum(epoch >= epoch_at(m, epochs) for m in self.milestones))


class Cosine(FrozenModel):
    """The rate warms up linearly and falls along half a cosine, epoch by epoch (Loshchilov & Hutter, 2016)."""

    kind: Literal["cosine"]
    warmup: Annotated[int, Field(ge=0)] = 0

    def check(self, epochs: int) -> None:
        """Refuse a warm-up that never ends."""
        if self.warmup >= epochs:
            raise ValueError(f"schedule: a warm-up of {self.warmup} epochs does not end in {epochs} epochs")

    def factor(self, epoch: int, epochs: int) -> float:
        """Give the rate's factor in an epoch."""
        if epoch < self.warmup:
            return (epoch + 1) / self.warmup
        return 0.5 * (1.0 + math.cos(math.pi * (epoch - self.warmup) / max(epochs - self.warmup, 1)))


class Stage(FrozenModel):
    """A part of training with a schedule of its own.

    Attributes:
        epochs: its length.
        ratio: its first rate, relative to the recipe's.
        schedule: of its epochs; places in it count from the stage's beginning.
    """

    epochs: Annotated[int, Field(ge=1)]
    ratio: Annotated[float, Field(gt=0)] = 1.0
    schedule: Annotated[Constant | Linear | Step | Cosine, Field(discriminator="kind")] = Constant()


class Stages(FrozenModel):
    """Schedules one after the other, as in training on from a finished run: each begins with a new optimizer.

    The late-phase paper trains on for 20 epochs after 200: a rate of 0.01, linear to 0.001 in 10 epochs, then constant
    (its appendix B, Table 9).
    """

    kind: Literal["stages"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    def check(self, epochs: int) -> None:
        """Refuse stages that are shorter or longer than training."""
        total = sum(stage.epochs for stage in self.stages)
        if total != epochs:
            raise ValueError(f"schedule: the stages have {total} epochs, training has {epochs}")
        for stage in self.stages:
            stage.schedule.check(stage.epochs)

    def beginnings(self) -> list[int]:
        """List the epochs in which the second and later stages begin."""
        return list(itertools.accumulate(stage.epochs for stage in self.stages))[:-1]

    def factor(self, epoch: int, epochs: int) -> float:
        """Give the rate's factor in an epoch."""
        for stage in self.stages[:-1]:
            if epoch < stage.epochs:
                break
            epoch -= stage.epochs
        else:
            stage = self.stages[-1]
        return stage.ratio * stage.schedule.factor(epoch, stage.epochs)


Schedule = Annotated[Constant | Linear | Step | Cosine | Stages, Field(discriminator="kind")]


class Recipe(FrozenModel):
    """How a network is trained plainly; methods depart from it."""

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
    """Weights to start from: drawn, or torchvision's of that name, as in the late-phase paper's fine-tuning."""
    reestimate_on: Literal["augmented", "plain"] = "augmented"
    """Training data on which running statistics are re-estimated; the authors of all three papers augment them."""

    @model_validator(mode="after")
    def check_schedule(self) -> Self:
        """Refuse a schedule that does not fit into training."""
        self.schedule.check(self.epochs)
        return self

    def resets_optimizer(self, epoch: int) -> bool:
        """Say whether the optimizer forgets its state (momentum) at the beginning of an epoch."""
        return isinstance(self.schedule, Stages) and epoch in self.schedule.beginnings()

    def rate(self, epoch: float) -> float:
        """Give the learning rate at a position in training (whole epochs since its start, and a fraction).

        The rate is held within an epoch, as all three papers do.
        """
        return self.lr * self.schedule.factor(math.floor(epoch), self.epochs)

    def criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        """Give the training loss: the mean cross-entropy, in nats.

        Args:
            logits: (B, C).
            y: (B,) class numbers.
        """
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def count_examples(self, x: Tensor) -> int:
        """Count the examples of a minibatch: of the whole one, where several processes share it.

        Args:
            x: (B, …), what this process has of it.
        """
        return len(x)
