"""Rehearsals: a study at a small scale, to see that all of it runs before it is paid for. Its figures mean nothing."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

import data
from data.shapes import DOWNLOADED
from data.text import SEGMENT
from harness.check import check_grid
from harness.expression import MethodSpec, hyperparameters
from harness.grid import Entry, Grid
from harness.measures import Measures
from harness.noisy_quadratic import EVERY
from harness.places import Errors, Lines, StudyError
from harness.quadratic_study import QuadraticStudy, problems
from harness.run import DatasetSpec
from harness.study import Study
from methods import Method
from methods.recipe import Part, Position, Recipe

SUFFIX = " · rehearsal"
"""At the end of a rehearsal's name: its runs are tracked apart from the study's."""
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
"""Networks without a width in their name: a step of the larger ones takes seconds even on tiny pictures."""
IN_THEIR_PLACE = "wrn-10"


class Scale(Part):
    """How small a rehearsal is; None leaves the study's own value."""

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Of the study's longest training; all places in training move in proportion."""
    subset: Annotated[int, Field(ge=1)] | None = None
    """Examples to train on, at most; of text, segments."""
    width: Annotated[float, Field(gt=0)] | None = None
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
    values = dict(part.strip().partition("=")[::2] for part in text.split(","))
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


def rehearse(study: Study, scale: Scale) -> Study:
    """Give a study at a small scale.

    Raises:
        StudyError: if a method does not fit into it, naming it.
    """
    lengths = EPOCHS if scale == TINY else (scale.epochs,)
    for epochs in lengths:
        small = scale.model_copy(update={"epochs": epochs})
        grids = scaled_grids(study, small)
        errors = Errors(Path(f"--scale {small}"), Lines(""))
        for grid in grids:
            check_grid(grid, study.methods, errors)
        if not errors.found:
            break
    if errors.found:
        reasons = "\n".join(dict.fromkeys(f"  {error.rpartition(']: ')[2]}" for error in errors.found))
        raise StudyError(f"study {study.name} does not fit into --scale {small}:\n{reasons}")
    return replace(study, name=study.name + SUFFIX, grids=grids, banner=describe(small))


def rehearse_quadratic(study: QuadraticStudy, scale: Scale) -> QuadraticStudy:
    """Give a study of the noisy quadratic problem in fewer dimensions, which relax as much sooner.

    Raises:
        StudyError: if that is too few.
    """
    factor = scale.width or 1.0
    runs = []
    for run in study.runs:
        n = max(2, round(run.n * factor))
        average = max(2 * EVERY, 2 * EVERY * round(run.average * n / run.n / (2 * EVERY)))
        changes: dict[str, Any] = {"n": n, "average": average, "iterations": max(average, run.iterations * n // run.n)}
        if scale.seeds:
            changes["seeds"] = run.seeds[: max(2, scale.seeds)]  # a standard error needs two
        runs.append(run.model_copy(update=changes))
    wrong = [f"  {run}: {problem}" for i, run in enumerate(runs) for problem in problems(run, runs[:i])]
    if wrong:
        raise StudyError("\n".join([f"study {study.name} does not fit into --scale {scale}:", *wrong]))
    counts = f"{runs[0].n} dimensions, {runs[0].iterations:,} iterations, {len(runs[0].seeds)} seeds"
    banner = f"Rehearsal, not a result: {counts}."
    return replace(study, name=study.name + SUFFIX, runs=tuple(runs), banner=banner)


def describe(scale: Scale) -> str:
    """Say what a rehearsal is."""
    parts = [
        f"at most {scale.epochs} epoch{'s' if scale.epochs > 1 else ''}" if scale.epochs else "",
        f"at most {scale.subset} training examples" if scale.subset else "",
        f"networks {scale.width:g} times as wide" if scale.width else "",
        f"{IN_THEIR_PLACE}s in place of larger residual networks" if scale.width and scale.width < 1 else "",
        f"at most {scale.members} member{'s' if scale.members > 1 else ''}" if scale.members else "",
        f"at most {scale.seeds} seed{'s' if scale.seeds > 1 else ''}" if scale.seeds else "",
        "made-up data" if scale.data else "",
    ]
    return f"Rehearsal, not a result: {', '.join(part for part in parts if part)}."


def scaled_grids(study: Study, scale: Scale) -> tuple[Grid, ...]:
    """Give a study's grids at a small scale, each (dataset, architecture) as one of its own, in their order."""
    lengths = [grid.recipe_of(d, a).epochs for grid in study.grids for d in grid.datasets for a in grid.architectures]
    factor = scale.epochs / max(lengths) if scale.epochs else 1.0
    names = narrow({a for grid in study.grids for a in grid.architectures}, scale.width)
    return tuple(
        grid.model_copy(
            update={
                "datasets": [scaled_dataset(dataset, scale)],
                "architectures": [names[architecture]],
                "methods": [scaled_entry(entry, recipe.epochs, scale, study.methods) for entry in grid.methods],
                "seeds": grid.seeds[: scale.seeds],
                "recipe": scaled_recipe(recipe, factor, scale),
                "overrides": [],
                "evaluate": scaled_measures(grid.evaluate),
            }
        )
        for grid in study.grids
        for dataset in grid.datasets
        for architecture in grid.architectures
        for recipe in [grid.recipe_of(dataset, architecture)]
    )


def narrow(architectures: set[str], width: float | None) -> dict[str, str]:
    """Name a narrower network for each architecture; different ones stay different."""
    found: dict[str, str] = {}
    for name in sorted(architectures):
        match = WIDTH.fullmatch(name)
        if width is not None and match:
            head = "-".join(filter(None, (match["family"], match["depth"])))
            head = IN_THEIR_PLACE if head.startswith("wrn") and width < 1 else head
            least = max(1, round(int(match["width"]) * width))
        elif width is not None and width < 1 and RESIDUAL.fullmatch(name):
            head, least = IN_THEIR_PLACE, 1
        else:
            found[name] = name
            continue
        smaller = (f"{head}-{each}" for each in count(least))
        found[name] = next(each for each in smaller if each not in found.values())
    return found


def scaled_dataset(dataset: DatasetSpec, scale: Scale) -> DatasetSpec:
    """Give less of a dataset, perhaps made up; one that needs no download stays as it is."""
    if dataset.name not in DOWNLOADED:
        return dataset
    text = dataset.name in data.TEXTS
    changes: dict[str, Any] = {}
    if scale.subset:
        least = scale.subset * (dataset.segment or SEGMENT) if text else scale.subset
        changes["train_size"] = min(dataset.train_size or least, least)
        if dataset.validation:
            changes["validation"] = min(dataset.validation, least)
    if scale.data:
        changes["name"] = f"{'made_text' if text else 'made'}:{dataset.name}"
        changes["version"] = data.VERSIONS.get(changes["name"].partition(":")[0], 1)
        if not text:
            changes["ood"] = data.STANDARD.get(dataset.name, ()) if dataset.ood is None else dataset.ood
        if dataset.corruptions == "official":
            changes["corruptions"] = "generated"
    return dataset.model_copy(update=changes)


def scaled_recipe(recipe: Recipe, factor: float, scale: Scale) -> Recipe:
    """Shorten training; whole epochs in its schedule become the same fractions of it."""
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
    if scale.subset:
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
        update = {"draws": min(asked.flatness.draws, DRAWS), "examples": SCORED}
        changes["flatness"] = asked.flatness.model_copy(update=update)
    return asked.model_copy(update=changes)
