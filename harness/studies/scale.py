"""A study's parts at a small scale: fewer epochs, examples, members and seeds, narrower networks; never more."""

import math
import re
from collections.abc import Mapping
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

import data
from data.datasets.official_sizes import DOWNLOADED
from data.datasets.synthetic import SYMBOLS, TRAIN
from data.tasks.text_task import SEGMENT
from harness.parsing.method_expression import MethodSpec, hyperparameters
from harness.parsing.yaml_errors import StudyError
from harness.studies.extra_measures import Measures
from harness.studies.grid import Entry, Grid
from harness.studies.run import DatasetSpec
from harness.studies.study import Study
from methods import Method
from methods.core.recipe import FrozenModel, Position, Recipe

COUNTS = ("K", "N", "M", "checkpoints", "points")
"""Hyperparameters that count members, samples and states."""
POSITIONS = (Position, Position | None)
"""Types of hyperparameters that are places in training."""
PATH_POINTS, PLANE_POINTS, DRAWS, SCORED = 5, 3, 2, 64
"""What is measured around networks, at most: points on a path and along a plane's side, draws of noise, examples."""
SEVERITY = 3
"""Of the corruptions of a path, the one that is left where it is asked for; it is that of the relative change."""
MINIBATCHES = 4
"""Of an epoch, at least: so few epochs of a single one would teach nothing, and no cycle of members would be full."""
EPOCHS = (4, 6, 10, 16, 24, 40)
"""Lengths that `tiny` tries, as some methods collect several states late in training."""
WIDTH = re.compile(r"(?P<family>wrn|pyramidnet|lstm)-(?:(?P<depth>\d+)-)?(?P<width>\d+)")
RESIDUAL = re.compile(r"(?:c|tiny_|wide_)?resnet\w+(?:-conv)?|densenet\w+")
"""Networks without a width in their name: a step of the larger ones takes seconds even on tiny images."""
IN_THEIR_PLACE = "wrn-10"


class Scale(FrozenModel):
    """How small a rehearsal is; None leaves the study's own value."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Of the study's longest training; all places in training move in proportion."""
    subset: Annotated[int, Field(ge=1)] | None = None
    """Examples to train on, at most; of text, segments."""
    width: Annotated[float, Field(gt=0, le=1)] | None = None
    """A factor on the width of networks that have one in their name; below 1, wrn-10s in place of all ResNets."""
    members: Annotated[int, Field(ge=1)] | None = None
    """How many an ensemble has, at most."""
    seeds: Annotated[int, Field(ge=1)] | None = None
    """How many of the study's are run."""
    data: Literal["made"] | None = None
    """Made-up data in the place of what would be downloaded."""

    def __str__(self) -> str:
        """Write it as it is read."""
        return ",".join(f"{name}={value}" for name, value in self.model_dump(exclude_none=True).items())


TINY = Scale(epochs=EPOCHS[0], subset=64, width=0.1, members=3, seeds=2, data="made")


def read_scale(text: str) -> Scale:
    """Read `tiny`, or values like `epochs=4,subset=64,width=0.1`.

    Raises:
        StudyError: naming what is wrong.
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


def scaled_grids(study: Study, scale: Scale) -> tuple[Grid, ...]:
    """Give a study's grids at a small scale, each (dataset, architecture) as one of its own, in their order."""
    lengths = [grid.recipe_of(d, a).epochs for grid in study.grids for d in grid.datasets for a in grid.architectures]
    if scale.epochs and scale.epochs >= max(lengths):
        scale = scale.model_copy(update={"epochs": None})
    factor = scale.epochs / max(lengths) if scale.epochs else 1.0
    names = narrow({a for grid in study.grids for a in grid.architectures}, scale.width)
    return tuple(
        grid.model_copy(
            update={
                "datasets": [small],
                "architectures": [names[architecture]],
                "methods": [scaled_entry(entry, recipe.epochs, scale, study.methods) for entry in grid.methods],
                "seeds": grid.seeds[: scale.seeds],
                "recipe": scaled_recipe(recipe, factor, scale, fewer=small.train_size != dataset.train_size),
                "overrides": [],
                "evaluate": scaled_measures(grid.evaluate),
            }
        )
        for grid in study.grids
        for dataset in grid.datasets
        for small in [scaled_dataset(dataset, scale)]
        for architecture in grid.architectures
        for recipe in [grid.recipe_of(dataset, architecture)]
    )


def narrow(architectures: set[str], width: float | None) -> dict[str, str]:
    """Name a narrower network for each architecture; different ones stay different, if need be by becoming wider."""
    found = {name: name for name in architectures}
    if width is None or width >= 1:
        return found
    families: list[tuple[float, str, str]] = []  # own width, name, and the name of what is narrower without its width
    for name in architectures:
        if match := WIDTH.fullmatch(name):
            head = "-".join(filter(None, (match["family"], match["depth"])))
            families.append((int(match["width"]), name, IN_THEIR_PLACE if head.startswith("wrn") else head))
        elif RESIDUAL.fullmatch(name):
            families.append((math.inf, name, IN_THEIR_PLACE))
    taken: set[str] = set()
    for own, name, head in sorted(families):  # narrow ones first: what they leave free is no wider than the others
        least = 1 if math.isinf(own) else max(1, round(own * width))
        found[name] = next(each for i in count(least) if (each := f"{head}-{i}") not in taken)
        taken.add(found[name])
    return found


def scaled_dataset(dataset: DatasetSpec, scale: Scale) -> DatasetSpec:
    """Give less of a dataset, perhaps made up; one that needs no download stays as it is."""
    known = DOWNLOADED.get(dataset.name)
    if known is None or not (scale.subset or scale.data):
        return dataset
    text = known.image_size is None
    there, held = (SYMBOLS * 90 // 100, SYMBOLS * 5 // 100) if text else (TRAIN, TRAIN // 4)  # of made-up data
    changes: dict[str, Any] = made_up(dataset, text) if scale.data else {}
    limits = [scale.subset * ((dataset.segment or SEGMENT) if text else 1)] if scale.subset else []
    apart = dataset.validation or 0  # of images, it is taken from those to train on; a text has a part for it
    had = dataset.train_size or known.train - (0 if text else apart)
    if apart:
        changes["validation"] = apart = min(apart, *limits, *([held] if scale.data else []))
    left = (there if scale.data else known.train) - (0 if text else apart)
    most = min(had, left, *limits)
    if most < had:
        changes["train_size"] = most if most < left else None
    return dataset.model_copy(update=changes)


def made_up(dataset: DatasetSpec, text: bool) -> dict[str, Any]:
    """Say what of a dataset changes if it is made up."""
    changes: dict[str, Any] = {"name": f"{'made_text' if text else 'made'}:{dataset.name}"}
    changes["version"] = data.VERSIONS.get(changes["name"].partition(":")[0], 1)
    if not text:
        changes["ood"] = data.STANDARD.get(dataset.name, ()) if dataset.ood is None else dataset.ood
    if dataset.corruptions == "official":
        changes["corruptions"] = "generated"
    return changes


def scaled_recipe(recipe: Recipe, factor: float, scale: Scale, *, fewer: bool = True) -> Recipe:
    """Shorten training; whole epochs in its schedule become the same fractions of it.

    Args:
        recipe: as it is written.
        factor: on the epochs.
        scale: of the rehearsal.
        fewer: whether there are fewer examples, so that minibatches must be smaller.
    """
    values = recipe.model_dump(exclude_unset=True)
    schedule = dict(values.get("schedule", {}))
    if factor != 1.0:
        values["epochs"] = shorter(recipe.epochs, factor)
        if "stages" in schedule:
            schedule["stages"] = [
                stage | {"epochs": shorter(stage["epochs"], factor), "schedule": fractions(stage, stage["epochs"])}
                for stage in schedule["stages"]
            ]
            values["epochs"] = sum(stage["epochs"] for stage in schedule["stages"])
        if "warmup" in schedule:
            schedule["warmup"] = min(round(schedule["warmup"] * factor), values["epochs"] - 1)
        values["schedule"] = fractions({"schedule": schedule}, recipe.epochs)
    if scale.subset and fewer:
        values["batch_size"] = min(recipe.batch_size, max(1, scale.subset // MINIBATCHES))
    if scale.data:
        values["initial"] = "random"
    return Recipe.model_validate({key: value for key, value in values.items() if value != {}})


def shorter(epochs: int, factor: float) -> int:
    """Scale a number of epochs; one is left."""
    return max(1, round(epochs * factor))


def fractions(stage: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Turn the whole epochs of a stage's schedule into fractions of it."""
    schedule = dict(stage.get("schedule", {}))
    for name in ("start", "end"):
        if isinstance(schedule.get(name), int):
            schedule[name] = schedule[name] / epochs
    if "milestones" in schedule:
        schedule["milestones"] = [m / epochs if isinstance(m, int) else m for m in schedule["milestones"]]
    return schedule


def scaled_entry(entry: Entry, epochs: int, scale: Scale, methods: Mapping[str, type[Method]]) -> Entry:
    """Give a method at a small scale, under its name.

    Args:
        entry: as it is written.
        epochs: of its training, in which it is written.
        scale: of the rehearsal.
        methods: every method by name.
    """
    return entry.model_copy(update={"method": scaled_method(entry.method, epochs, scale, methods)})


def scaled_method(spec: MethodSpec, epochs: int, scale: Scale, methods: Mapping[str, type[Method]]) -> MethodSpec:
    """Move a method's places in training, and give it fewer members."""
    values = {}
    for name, (kind, default) in hyperparameters(methods[spec.name]).items():
        value = spec.hyperparameters.get(name, default)
        if scale.epochs and kind in POSITIONS and isinstance(value, int):
            value = value / epochs
        counted = name in COUNTS and (name != "points" or spec.hyperparameters.get("prediction") == "random")
        if scale.members and counted and isinstance(value, int):
            value = min(value, scale.members)
        if name != "of" and value != default:
            values[name] = value
    of = scaled_method(spec.of, epochs, scale, methods) if spec.of else None
    return spec.model_copy(update={"hyperparameters": values, "of": of})


def scaled_measures(asked: Measures) -> Measures:
    """Measure less around networks."""
    changes: dict[str, Any] = {}
    if asked.path:
        severities = tuple(s for s in asked.path.severities if s == SEVERITY) or asked.path.severities[:1]
        update: dict[str, Any] = {"points": min(asked.path.points, PATH_POINTS), "severities": severities}
        changes["path"] = asked.path.model_copy(update=update)
    if asked.plane:
        points, examples = min(asked.plane.points, PLANE_POINTS), min(asked.plane.examples, SCORED)
        train = min(asked.plane.train_examples, SCORED)
        update = {"points": points, "examples": examples, "train_examples": train}
        changes["plane"] = asked.plane.model_copy(update=update)
    if asked.flatness:
        update = {"draws": min(asked.flatness.draws, DRAWS), "examples": min(asked.flatness.examples or SCORED, SCORED)}
        changes["flatness"] = asked.flatness.model_copy(update=update)
    return asked.model_copy(update=changes)
