"""Additional measurements that a study can request from evaluation, such as those that the papers' figures show."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from data.corruptions import CORRUPTIONS
from methods.core.recipe import FrozenModel

Sigma = Annotated[float, Field(ge=0)]
MOST_POINTS, MOST_SIDE = 10_000, 200
"""Largest number of points, draws or bins, and of points along a side of a plane: each point is a network."""
SWITCHES = ("flatness", "path", "plane")
"""Measurements that `true` requests with default values."""


class FlatnessMeasurement(FrozenModel):
    """The increase of the training loss under multiplicative noise on the weights (late-phase paper, Figure 3)."""

    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1)] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    """Standard deviations of the noise, relative to each weight. The paper does not give its values."""
    draws: Annotated[int, Field(ge=1, le=MOST_POINTS)] = 10
    """Number of noise samples."""
    examples: Annotated[int, Field(ge=1)] | None = None
    """Number of training examples for the loss; None for all."""

    @field_validator("sigmas")
    @classmethod
    def in_order(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        """Sort the values, so that equal requests have equal keys."""
        return tuple(sorted(set(value)))


class PathMeasurement(FrozenModel):
    """The scores along the path between a method's first two anchors (subspaces paper, Figures 4 to 6 and 18)."""

    points: Annotated[int, Field(ge=2, le=MOST_POINTS)] = 21
    """Number of networks on the path, equally spaced."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Extension of the path beyond both ends, relative to its length."""
    corruptions: tuple[str, ...] = ()
    """Corruptions under which the test examples are scored in addition (Figure 9)."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (1, 3, 5)
    """Severities of these corruptions."""

    @field_validator("corruptions")
    @classmethod
    def known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse unknown corruptions, and remove repeated ones."""
        for name in value:
            if name not in CORRUPTIONS:
                raise ValueError(f"unknown corruption {name!r}: known are {', '.join(CORRUPTIONS)}")
        return tuple(dict.fromkeys(value))


class PlaneMeasurement(FrozenModel):
    """The scores on a plane through three anchors (subspaces, Figure 2; hypernetwork ensembles, Figures 3 and S2)."""

    points: Annotated[int, Field(ge=2, le=MOST_SIDE)] = 21
    """Number of points along each side of the grid."""
    margin: Annotated[float, Field(ge=0)] = 0.2
    """Extension of the grid beyond the three anchors, relative to their extent."""
    examples: Annotated[int, Field(ge=1)] = 2048
    """Largest number of test examples."""
    train_examples: Annotated[int, Field(ge=0)] = 512
    """Largest number of training examples; 0 to measure no training loss."""
    third: Literal["sgd"] | None = None
    """The third anchor of methods with two anchors: the network of plain training with the same seed."""


class ExtraMeasurements(FrozenModel):
    """The measurements to make besides scores; none by default. They are not part of a run's cost."""

    training_loss: bool = False
    """Loss and accuracy on the whole training set, not augmented (late-phase paper, Table 14)."""
    calibration_bins: Annotated[int, Field(ge=1, le=MOST_POINTS)] | None = None
    """Number of bins of a second calibration error (the authors of subspaces use 20); None for no second error."""
    flatness: FlatnessMeasurement | None = None
    path: PathMeasurement | None = None
    plane: PlaneMeasurement | None = None
    each_epoch: tuple[Literal["test", "distances"], ...] = ()
    """Measurements after each epoch: test scores, and distances between anchors (subspaces, Figures 3, 15 and 16)."""

    @field_validator("each_epoch")
    @classmethod
    def once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Sort the names and remove repeated ones, so that equal requests have equal keys."""
        return tuple(sorted(set(value)))

    @property
    def space(self) -> bool:
        """Whether networks at other points in weight space than those used for prediction are evaluated."""
        return bool(self.flatness or self.path or self.plane)


def expand_switches(value: Any) -> Any:
    """Replace `path: true` by default values, and likewise for the other measurements.

    Raises:
        ValueError: for an empty `path:`, which would switch the measurement off.
    """
    if not isinstance(value, dict):
        raise ValueError("expected a mapping of what to measure, as in {path: true}")
    for name in SWITCHES:
        if name in value and value[name] is None:
            raise ValueError(f"{name} is empty; write `{name}: true` for its defaults, or leave it out")
    return {name: {} if name in SWITCHES and item is True else item for name, item in value.items()}
