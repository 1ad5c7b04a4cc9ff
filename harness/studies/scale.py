"""Scales the parts of a study down: fewer epochs, examples, members and seeds, and narrower networks."""

import math
import re
from collections.abc import Mapping
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

import data
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.datasets.synthetic import TEXT_LENGTH, TRAIN_IMAGES
from data.tasks.text_task import SEGMENT
from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.method_expression import COUNT_HYPERPARAMETERS, MethodSpec
from harness.parsing.yaml_errors import StudyError
from harness.studies.extra_measurements import ExtraMeasurements
from harness.studies.grid import Entry, Grid
from harness.studies.run import DatasetSpec
from harness.studies.study import Study
from methods import Method
from methods.core.recipe import FrozenModel, Position, Recipe

POSITION_TYPES = (Position, Position | None)
"""Types of hyperparameters that are positions in training, as epochs or fractions."""
EPOCH_LISTS = {"ends"}
"""Hyperparameters that list the epochs in which something happens. Without them it happens evenly."""
MAX_PATH_POINTS, MAX_PLANE_POINTS, MAX_NOISE_DRAWS, MAX_EXAMPLES = 5, 3, 2, 64
"""Limits of extra measurements: points on a path and along a plane's side, noise samples, and examples."""
KEPT_SEVERITY = 3
"""The severity that is kept of a path's corruptions, if requested. The relative change is measured at it."""
MIN_MINIBATCHES = 4
"""Minimal number of minibatches an epoch. With fewer, nothing is learned and no cycle of members is complete."""
TINY_EPOCHS = (4, 6, 10, 16, 24, 40)
"""Numbers of epochs that `tiny` tries in turn, because some methods collect several checkpoints late in training."""
WIDTH_PATTERN = re.compile(r"(?P<family>wrn|pyramidnet|lstm)-(?:(?P<depth>\d+)-)?(?P<width>\d+)")
RESIDUAL_PATTERN = re.compile(r"(?:c|tiny_|wide_)?resnet\w+(?:-conv)?|densenet\w+")
"""Networks without a width in their name. One step of the larger ones takes seconds even on tiny images."""
REPLACEMENT_FAMILY = "wrn-10"


class Scale(FrozenModel):
    """The limits of a rehearsal. None keeps the study's own value."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Epochs of the study's longest training. All positions in training are scaled in proportion."""
    subset: Annotated[int, Field(ge=1)] | None = None
    """Largest number of training examples; of text, segments."""
    width: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor on the width of networks with a width in their name. Below 1, wrn-10s replace all ResNets."""
    members: Annotated[int, Field(ge=1)] | None = None
    """Largest number of members of an ensemble."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """Number of the study's seeds to run."""
    data: Literal["made"] | None = None
    """`made` replaces datasets that would be downloaded by synthetic ones; `data=synthetic` means the same."""

    @field_validator("data", mode="before")
    @classmethod
    def accept_synthetic(cls, value: Any) -> Any:
        """Read `synthetic` as `made`."""
        return "made" if value == "synthetic" else value

    def __str__(self) -> str:
        """Write the scale as `read_scale` reads it."""
        return ",".join(f"{name}={value}" for name, value in self.model_dump(exclude_none=True).items())


TINY = Scale(epochs=TINY_EPOCHS[0], subset=64, width=0.1, members=3, seeds=2, data="made")


def read_scale(text: str) -> Scale:
    """Parse a scale: `tiny`, or values like `epochs=4,subset=64,width=0.1`.

    Raises:
        StudyError: naming all wrong values.
    """
    if text == "tiny":
        return TINY
    pairs = [part.strip().partition("=")[::2] for part in text.split(",") if part.strip()]
    values = dict(pairs)
    if not values or len(values) < len(pairs):
        raise StudyError(f"--scale {text!r}: expected tiny, or values like epochs=4,subset=64, each of them once")
    try:
        return Scale.model_validate(values)
    except ValidationError as error:
        reasons = "; ".join(
            f"{name}: there are {', '.join(Scale.model_fields)}, and tiny"
            if (name := str(detail["loc"][0])) not in Scale.model_fields
            else f"{name}={detail['input']}: {detail['msg']}"
            for detail in error.errors()
        )
        raise StudyError(f"--scale {text}: {reasons}") from error


def scale_grids(study: Study, scale: Scale) -> tuple[Grid, ...]:
    """Return a study's grids at a small scale. Each (dataset, architecture) becomes one grid, in the same order."""
    lengths = [grid.recipe_of(d, a).epochs for grid in study.grids for d in grid.datasets for a in grid.architectures]
    if scale.epochs and scale.epochs >= max(lengths):
        scale = scale.model_copy(update={"epochs": None})
    factor = scale.epochs / max(lengths) if scale.epochs else 1.0
    names = narrower_names({a for grid in study.grids for a in grid.architectures}, scale.width)
    return tuple(
        grid.model_copy(
            update={
                "datasets": [small],
                "architectures": [names[architecture]],
                "methods": [scale_entry(entry, recipe.epochs, scale, study.methods) for entry in grid.methods],
                "seeds": grid.seeds[: scale.seeds],
                "recipe": scale_recipe(recipe, factor, scale, fewer=small.train_size != dataset.train_size),
                "overrides": [],
                "evaluate": scale_measurements(grid.evaluate),
            }
        )
        for grid in study.grids
        for dataset in grid.datasets
        for small in [scale_dataset(dataset, scale)]
        for architecture in grid.architectures
        for recipe in [grid.recipe_of(dataset, architecture)]
    )


def narrower_names(architectures: set[str], width: float | None) -> dict[str, str]:
    """Return the name of a narrower network for each architecture.

    Different architectures stay different. If two would become equal, one of them gets a larger width.
    """
    found = {name: name for name in architectures}
    if width is None or width >= 1:
        return found
    families: list[tuple[float, str, str]] = []  # own width, name, and the name of what is narrower without its width
    for name in architectures:
        if match := WIDTH_PATTERN.fullmatch(name):
            head = "-".join(filter(None, (match["family"], match["depth"])))
            families.append((int(match["width"]), name, REPLACEMENT_FAMILY if head.startswith("wrn") else head))
        elif RESIDUAL_PATTERN.fullmatch(name):
            families.append((math.inf, name, REPLACEMENT_FAMILY))
    taken: set[str] = set()
    for own, name, head in sorted(families):  # narrow ones first, so that they get the smallest widths
        least = 1 if math.isinf(own) else max(1, round(own * width))
        found[name] = next(each for i in count(least) if (each := f"{head}-{i}") not in taken)
        taken.add(found[name])
    return found


def scale_dataset(dataset: DatasetSpec, scale: Scale) -> DatasetSpec:
    """Reduce a dataset or replace it by synthetic data. A dataset that needs no download stays unchanged."""
    known = DOWNLOADED_SHAPES.get(dataset.name)
    if known is None or not (scale.subset or scale.data):
        return dataset
    text = known.image_size is None
    there, held = (
        (TEXT_LENGTH * 90 // 100, TEXT_LENGTH * 5 // 100) if text else (TRAIN_IMAGES, TRAIN_IMAGES // 4)
    )  # of synthetic data
    changes: dict[str, Any] = synthetic_changes(dataset, text) if scale.data else {}
    least = 0 if text or scale.data else known.classes  # real images of all classes; synthetic ones are drawn evenly
    limits = [max(scale.subset * ((dataset.segment or SEGMENT) if text else 1), least)] if scale.subset else []
    apart = dataset.validation or 0  # images: taken from the training examples; a text has a separate part
    had = dataset.train_size or known.train - (0 if text else apart)
    if apart:
        changes["validation"] = apart = min(apart, *limits, *([held] if scale.data else []))
    left = (there if scale.data else known.train) - (0 if text else apart)
    most = min(had, left, *limits)
    if most < had:
        changes["train_size"] = most if most < left else None
    return dataset.model_copy(update=changes)


def synthetic_changes(dataset: DatasetSpec, text: bool) -> dict[str, Any]:
    """Return the fields of a dataset's spec that change when its data are synthetic."""
    changes: dict[str, Any] = {"name": f"{'synthetic_text' if text else 'synthetic'}:{dataset.name}"}
    changes["version"] = data.VERSIONS.get(changes["name"].partition(":")[0], 1)
    if not text:
        changes["ood"] = data.STANDARD_OOD_DATASETS.get(dataset.name, ()) if dataset.ood is None else dataset.ood
    if dataset.corruptions == "official":
        changes["corruptions"] = "generated"
    return changes


def scale_recipe(recipe: Recipe, factor: float, scale: Scale, *, fewer: bool = True) -> Recipe:
    """Shorten training. Epochs in the schedule become the same fractions of training.

    Args:
        recipe: recipe of the study.
        factor: factor on the number of epochs.
        scale: scale of the rehearsal.
        fewer: whether there are fewer training examples, so that minibatches must be smaller.
    """
    values = recipe.model_dump(exclude_unset=True)
    if factor != 1.0:
        values["epochs"] = scale_epochs(recipe.epochs, factor)
        schedule = dict(values.get("schedule", {}))
        if "stages" in schedule:
            stages = []
            for stage in schedule["stages"]:
                epochs = scale_epochs(stage["epochs"], factor)
                small = stage | {"epochs": epochs}
                if "schedule" in stage:
                    small["schedule"] = scale_schedule(stage["schedule"], stage["epochs"], epochs)
                stages.append(small)
            schedule["stages"] = stages
            values["epochs"] = sum(stage["epochs"] for stage in stages)
        values["schedule"] = scale_schedule(schedule, recipe.epochs, values["epochs"])
    if scale.subset and fewer:
        values["batch_size"] = min(recipe.batch_size, max(1, scale.subset // MIN_MINIBATCHES))
    if scale.data:
        values["initial"] = "random"
    return Recipe.model_validate({key: value for key, value in values.items() if value != {}})


def scale_epochs(epochs: int, factor: float) -> int:
    """Scale a number of epochs, to at least one."""
    return max(1, round(epochs * factor))


def scale_schedule(schedule: Mapping[str, Any], before: int, epochs: int) -> dict[str, Any]:
    """Fit a schedule into fewer epochs: a warm-up is shortened, other epochs become fractions of training.

    Args:
        schedule: the fields of the schedule, or of a stage's.
        before: its number of epochs.
        epochs: the number of epochs that it is to fill.
    """
    schedule = dict(schedule)
    if "warmup" in schedule:
        schedule["warmup"] = min(round(schedule["warmup"] * epochs / before), epochs - 1)
    for name in ("start", "end"):
        if isinstance(schedule.get(name), int):
            schedule[name] = schedule[name] / before
    if "milestones" in schedule:
        schedule["milestones"] = [m / before if isinstance(m, int) else m for m in schedule["milestones"]]
    return schedule


def scale_entry(entry: Entry, epochs: int, scale: Scale, methods: Mapping[str, type[Method]]) -> Entry:
    """Scale a method and keep its label.

    Args:
        entry: entry of the study.
        epochs: length of the study's training, to which positions in the entry refer.
        scale: scale of the rehearsal.
        methods: all methods by name.
    """
    return entry.model_copy(update={"method": scale_method(entry.method, epochs, scale, methods)})


def scale_method(spec: MethodSpec, epochs: int, scale: Scale, methods: Mapping[str, type[Method]]) -> MethodSpec:
    """Convert a method's epochs to fractions of training, leave out lists of them, and reduce its number of members."""
    values = {}
    for name, (kind, default) in hyperparameters(methods[spec.name]).items():
        value = spec.hyperparameters.get(name, default)
        if name in EPOCH_LISTS and (scale.epochs or scale.members):
            continue
        if scale.epochs and kind in POSITION_TYPES and isinstance(value, int):
            value = value / epochs
        counted = name in COUNT_HYPERPARAMETERS and (
            name != "points" or spec.hyperparameters.get("prediction") == "random"
        )
        if scale.members and counted and isinstance(value, int):
            value = min(value, scale.members)
        if name != "of" and value != default:
            values[name] = value
    of = scale_method(spec.of, epochs, scale, methods) if spec.of else None
    return spec.model_copy(update={"hyperparameters": values, "of": of})


def scale_measurements(asked: ExtraMeasurements) -> ExtraMeasurements:
    """Reduce the extra measurements to their limits."""
    changes: dict[str, Any] = {}
    if asked.path:
        severities = tuple(s for s in asked.path.severities if s == KEPT_SEVERITY) or asked.path.severities[:1]
        update: dict[str, Any] = {"points": min(asked.path.points, MAX_PATH_POINTS), "severities": severities}
        changes["path"] = asked.path.model_copy(update=update)
    if asked.plane:
        points, examples = min(asked.plane.points, MAX_PLANE_POINTS), min(asked.plane.examples, MAX_EXAMPLES)
        train = min(asked.plane.train_examples, MAX_EXAMPLES)
        update = {"points": points, "examples": examples, "train_examples": train}
        changes["plane"] = asked.plane.model_copy(update=update)
    if asked.flatness:
        update = {
            "draws": min(asked.flatness.draws, MAX_NOISE_DRAWS),
            "examples": min(asked.flatness.examples or MAX_EXAMPLES, MAX_EXAMPLES),
        }
        changes["flatness"] = asked.flatness.model_copy(update=update)
    return asked.model_copy(update=changes)
