"""Checks of a study beyond the form of its file: whether its parts fit together."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

import data
from data import TEXTS
from data.datasets.downloaded import DOWNLOADED_SHAPES
from harness.parsing.method_expression import MethodSpec, closest
from harness.parsing.yaml_errors import Errors
from harness.studies.build_method import Imagined, count_anchors
from harness.studies.grid import Grid
from harness.studies.run import DatasetSpec, Run
from methods.core.recipe import Recipe
from methods.core.wrapper import methods_within

PLAIN = MethodSpec(name="sgd")
TEXT = data.DatasetShape(None, None, 205, 900_000)
"""The shape that takes the place of a text's which could not be read."""
STAND_INS = {"datasets": ["digits"], "architectures": ["lenet5"], "methods": ["sgd"], "seeds": [0]}
"""What takes the place of parts of a study that were all wrong, so that the rest can be checked."""
NUMBER = {2: "two", 3: "three"}


def check_grid(grid: Grid, imagined: Imagined, errors: Errors) -> None:
    """Report what of a grid does not fit together."""
    check_labels(grid, errors)
    check_overrides(grid, errors)
    check_builds(grid, imagined, errors)
    check_measures(grid, imagined, errors)


def check_places(grids: Sequence[Grid], errors: Errors) -> None:
    """Report methods of two grids that tables could not tell apart."""
    known: dict[tuple[str, str, str], int] = {}
    for i, grid in enumerate(grids):
        for name in dict.fromkeys(place.name for place in grid.places()):
            if known.setdefault(name, i) != i:
                errors.add(("grids", i), f"{' · '.join(name)} stands in another grid already")


def check_labels(grid: Grid, errors: Errors) -> None:
    """Report what could not be told apart in tables, or is listed twice."""
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for k, entry in enumerate(grid.methods):
        place, method = ("methods", errors.index("methods", k)), str(entry.method)
        if labels.setdefault(entry.label, method) != method:
            errors.add(place, f"the label {entry.label!r} is that of {labels[entry.label]} already")
        elif entry.label in seen:
            errors.add(place, f"{entry.label} is listed already")
        seen.add(entry.label)
    datasets: set[str] = set()
    for i, dataset in enumerate(grid.datasets):
        place = ("datasets", errors.index("datasets", i))
        whole = not any(gone[:2] == place for gone in errors.gone)
        if whole and dataset.label in datasets:
            errors.add(place, f"tables would call two datasets {dataset.label!r}")
        datasets.add(dataset.label)
    for field, values in (("architectures", grid.architectures), ("seeds", grid.seeds)):
        for i, value in enumerate(values):
            if value in values[:i]:
                errors.add((field, errors.index(field, i)), f"{value!r} is listed already")


def check_overrides(grid: Grid, errors: Errors) -> None:
    """Report overrides that match nothing or that no recipe accepts."""
    base = grid.recipe.model_dump(exclude_unset=True)
    for i, override in enumerate(grid.overrides):
        place = errors.index("overrides", i)
        datasets = [dataset.name for dataset in grid.datasets]
        for field, value, known in (
            ("dataset", override.dataset, datasets),
            ("architecture", override.architecture, grid.architectures),
        ):
            replaced = known == STAND_INS[f"{field}s"] and any(gone[0] == f"{field}s" for gone in errors.gone)
            if value is not None and value not in known and not replaced:
                errors.add(("overrides", place, field), f"{value!r} is not in this study; {closest(value, known)}")
        try:
            Recipe.model_validate(override.recipe if override.whole else base | override.recipe)
        except ValidationError as error:
            rest = errors.report(override.recipe, error, ("overrides", place, "recipe"))
            grid.overrides[i] = override.model_copy(update={"recipe": rest})


def check_builds(grid: Grid, imagined: Imagined, errors: Errors) -> None:
    """Report datasets, architectures and methods that cannot be built together, in the first seed.

    Where no dataset or no architecture is right, a stand-in lets the rest be checked all the same.
    """
    found = check_datasets(grid, errors)
    first = grid.datasets[0]
    stand_in = TEXT if first.name.partition(":")[0] in data.TEXTS else data.DatasetShape(3, 32, 10, 50_000)
    for dataset, shape in found or [(first, stand_in)]:
        built = [
            plain
            for j, architecture in enumerate(grid.architectures)
            if (plain := check_architecture(grid, imagined, errors, dataset, shape, j, architecture))
        ]
        if not built:
            recipe = grid.recipe.model_copy(update={"initial": "random"})
            seed = grid.seeds[0]
            architecture = "wrn-10-1" if shape.image_size else "lstm-8"
            built = [Run(dataset=dataset, architecture=architecture, method=PLAIN, seed=seed, recipe=recipe)]
        for plain in built:
            check_methods(grid, imagined, errors, plain, shape, loadable=bool(found))


def check_datasets(grid: Grid, errors: Errors) -> list[tuple[DatasetSpec, data.DatasetShape]]:
    """Report datasets that are not there, and give the shapes of the others."""
    found = []
    for i, dataset in enumerate(grid.datasets):
        try:
            shape = data.dataset_shape(dataset.name, **dataset.options())
        except (ValueError, OSError) as error:
            errors.add(("datasets", errors.index("datasets", i)), str(error))
        else:
            found.append((dataset, shape))
    return found


def check_architecture(
    grid: Grid,
    imagined: Imagined,
    errors: Errors,
    dataset: DatasetSpec,
    shape: data.DatasetShape,
    j: int,
    architecture: str,
) -> Run | None:
    """Report an architecture that cannot be built for a dataset, or give its plain run."""
    try:
        recipe = grid.recipe_of(dataset, architecture)
        plain = Run(dataset=dataset, architecture=architecture, method=PLAIN, seed=grid.seeds[0], recipe=recipe)
        imagined(plain, shape)
    except ValidationError:
        return None  # an override, reported by `check_overrides`
    except ValueError as error:
        errors.add(("architectures", errors.index("architectures", j)), str(error))
        return None
    return plain


def check_methods(
    grid: Grid, imagined: Imagined, errors: Errors, plain: Run, shape: data.DatasetShape, *, loadable: bool
) -> None:
    """Report methods that cannot be built in the place of a plain run's, or that watch data which are not held out.

    Args:
        grid: whose methods are checked.
        imagined: methods that were built before.
        errors: where to report.
        plain: the plain run.
        shape: of its data.
        loadable: whether its dataset is there.
    """
    for k, entry in enumerate(grid.methods):
        try:
            method = imagined(plain.model_copy(update={"method": entry.method}), shape)
            watches = any(part.watches == "validation" for part in methods_within(method))
            if watches and loadable and not holds_out(plain.dataset):
                reason = f"it watches validation data, but {plain.dataset.label} holds none out"
                raise ValueError(f"{reason}: give the dataset a number of them, `validation`")
        except Exception as error:  # whatever a user's own method raises is the user's to read
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            place = ("methods", errors.index("methods", k))
            errors.add(place, f"{entry.method} on {plain.architecture}: {reason}")


def check_measures(grid: Grid, imagined: Imagined, errors: Errors) -> None:
    """Report what the grid asks evaluation to measure and no method of it can give."""
    asked = grid.evaluate
    least = {"path": 2} if asked.path else {}
    if asked.plane:
        least["plane"] = 2 if asked.plane.third else 3
    if "distances" in asked.each_epoch:
        least["each_epoch"] = 2
    if not least or errors.found:
        return
    counts = set()
    for run in (place.run(grid.seeds[0]) for place in grid.places()):
        shape = data.dataset_shape(run.dataset.name, **run.dataset.options())
        counts.add(count_anchors(imagined(run, shape)))
    for name, needed in least.items():
        if all(count is not None and count < needed for count in counts):
            others = ", or with `third: sgd` two," if needed == 3 else ""
            errors.add(
                ("evaluate", name), f"no method of this study has the {NUMBER[needed]} networks{others} that this needs"
            )


def holds_out(dataset: DatasetSpec) -> bool:
    """Say whether some training images of a dataset are held out; those that are downloaded hold out none unasked."""
    if dataset.name.partition(":")[0] in TEXTS:
        return dataset.validation != 0
    if dataset.validation is not None or dataset.name in DOWNLOADED_SHAPES:
        return bool(dataset.validation)
    return data.load(dataset.name, root=Path(), **dataset.options()).part("validation", 1) is not None
