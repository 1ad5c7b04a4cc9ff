"""What a study may ask evaluation to measure besides scores: what the papers' figures show."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from data.corruptions import CORRUPTIONS
from methods.core.recipe import FrozenModel

Sigma = Annotated[float, Field(ge=0)]
SWITCHES = ("flatness", "path", "plane")
"""What may be asked for by `true`."""


class Flatness(FrozenModel):
    """How fast the training loss rises under multiplicative noise on the weights (late-phase paper, Figure 3)."""

    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1)] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    """Standard deviations of the noise, relative to each weight (the paper gives none: these are our choice)."""
    draws: Annotated[int, Field(ge=1)] = 10
    """How often the noise is drawn."""
    examples: Annotated[int, Field(ge=1)] | None = None
    """How many training examples the loss is measured on; None for all."""

    @field_validator("sigmas")
    @classmethod
    def in_order(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        """Sort them, so that the same request is the same run."""
        return tuple(sorted(set(value)))


class PathThrough(FrozenModel):
    """The scores along the path between a method's first two anchors (subspaces paper, Figures 4 to 6 and 18)."""

    points: Annotated[int, Field(ge=2)] = 21
    """Networks on the path, equally spaced."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """How far the path goes on beyond its ends, in its own length."""
    corruptions: tuple[str, ...] = ()
    """Corruptions under which the test examples are predicted too (Figure 9)."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (1, 3, 5)
    """Their severities."""

    @field_validator("corruptions")
    @classmethod
    def known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse corruptions that there are not, and name each once."""
        for name in value:
            if name not in CORRUPTIONS:
                raise ValueError(f"unknown corruption {name!r}: known are {', '.join(CORRUPTIONS)}")
        return tuple(dict.fromkeys(value))


class Plane(FrozenModel):
    """The scores on a plane through three anchors (subspaces, Figure 2; hypernetwork ensembles, Figures 3 and S2)."""

    points: Annotated[int, Field(ge=2)] = 21
    """Points along each side of the grid."""
    margin: Annotated[float, Field(ge=0)] = 0.2
    """How far the grid goes on beyond the three anchors, relative to their extent."""
    examples: Annotated[int, Field(ge=1)] = 2048
    """Test examples, at most."""
    train_examples: Annotated[int, Field(ge=0)] = 512
    """Training examples, at most; 0 for no loss on them."""
    third: Literal["sgd"] | None = None
    """The third anchor of methods that have two: the network of plain training in the same cell."""


class Measures(FrozenModel):
    """What is measured besides scores; nothing unless it is asked for. It is not part of a run's cost."""

    training_loss: bool = False
    """Loss and accuracy on the whole training set, not augmented (late-phase paper, Table 14)."""
    calibration_bins: Annotated[int, Field(ge=1)] | None = None
    """The bins of a second calibration error, besides the usual one (the authors of subspaces take 20)."""
    flatness: Flatness | None = None
    path: PathThrough | None = None
    plane: Plane | None = None
    each_epoch: tuple[Literal["test", "distances"], ...] = ()
    """After each epoch: the scores on test data; how far the anchors are apart (subspaces, Figures 3, 15 and 16)."""

    @field_validator("each_epoch")
    @classmethod
    def once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Name each once and in order, so that the same request is the same run."""
        return tuple(sorted(set(value)))

    @property
    def space(self) -> bool:
        """Whether networks at other points than those that predict are looked at."""
        return bool(self.flatness or self.path or self.plane)


def read_switches(value: Any) -> Any:
    """Let `path: true` stand for its defaults.

    Raises:
        ValueError: for an empty `path:`, which YAML reads as off.
    """
    if not isinstance(value, dict):
        raise ValueError("expected a mapping of what to measure, as in {path: true}")
    for name in SWITCHES:
        if name in value and value[name] is None:
            raise ValueError(f"{name} is empty; write `{name}: true` for its defaults, or leave it out")
    return {name: {} if name in SWITCHES and item is True else item for name, item in value.items()}
