"""Checks whether the parts of a study fit together, after the form of its file has been validated."""

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from torch import nn

import data
from data import TEXTS
from data.datasets.downloaded import DOWNLOADED_SHAPES
from data.tasks.batches import batch_bounds
from data.tasks.text_task import SEGMENT, TextTask, check_text_length
from harness.parsing.method_expression import MethodSpec
from harness.parsing.yaml_errors import Errors, suggest_closest
from harness.studies.build_method import MetaMethods, count_anchors
from harness.studies.grid import Grid
from harness.studies.run import DatasetSpec, Run
from methods.core.batch_norm import batch_norms
from methods.core.late_phase import LatePhase
from methods.core.recipe import Recipe
from methods.core.wrapper import methods_within

PLAIN_TRAINING = MethodSpec(name="sgd")
TEXT_PLACEHOLDER = data.DatasetShape(None, None, 205, 900_000)
"""The shape assumed for a text that could not be read, so that the rest of the study can be checked."""
PLACEHOLDERS = {"datasets": ["digits"], "architectures": ["lenet5"], "methods": ["sgd"], "seeds": [0]}
"""Placeholders for parts of a study without any right value, so that the rest can be checked."""
MOST_RUNS = 5000
"""Largest number of cells of a grid, and of runs that a study takes with what they need: each is planned by itself."""
NUMBER_WORDS = {2: "two", 3: "three"}


def check_size(grid: Grid, errors: Errors) -> bool:
    """Report a grid of more cells than a study may have; return whether it is small enough."""
    counts = [len(part) for part in (grid.datasets, grid.architectures, grid.methods, grid.seeds)]
    cells = math.prod(counts)
    if cells > MOST_RUNS:
        factors = " × ".join(f"{count:,}" for count in counts)
        errors.add(
            (), f"datasets × architectures × methods × seeds are {factors} = {cells:,} cells; at most {MOST_RUNS:,}"
        )
    return cells <= MOST_RUNS


def check_grid(grid: Grid, meta_methods: MetaMethods, errors: Errors, *, rehearsal: bool = False) -> None:
    """Report parts of a grid that do not fit together; in a rehearsal, some members may get no minibatch."""
    check_labels(grid, errors)
    check_overrides(grid, errors)
    check_builds(grid, meta_methods, errors, rehearsal=rehearsal)
    check_measures(grid, meta_methods, errors)


def check_distinct_groups(grids: Sequence[Grid], errors: Errors) -> None:
    """Report cell groups that appear in two grids, which tables could not tell apart."""
    known: dict[tuple[str, str, str], int] = {}
    for i, grid in enumerate(grids):
        for name in dict.fromkeys(group.name for group in grid.cell_groups()):
            if known.setdefault(name, i) != i:
                errors.add(("grids", i), f"{' · '.join(name)} stands in another grid already")


def check_labels(grid: Grid, errors: Errors) -> None:
    """Report entries that are listed twice, and labels that tables could not tell apart."""
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for k, entry in enumerate(grid.methods):
        location, method = ("methods", errors.original_index("methods", k)), str(entry.method)
        if data.UNPRINTABLE.search(entry.label):
            errors.add(location, f"the label {entry.label!a} has characters that cannot be printed")
        if labels.setdefault(entry.label, method) != method:
            errors.add(location, f"the label {entry.label!r} is that of {labels[entry.label]} already")
        elif entry.label in seen:
            errors.add(location, f"{entry.label} is listed already")
        seen.add(entry.label)
    datasets: set[str] = set()
    for i, dataset in enumerate(grid.datasets):
        location = ("datasets", errors.original_index("datasets", i))
        whole = not any(gone[:2] == location for gone in errors.removed)
        if whole and dataset.label in datasets:
            errors.add(location, f"tables would call two datasets {dataset.label!r}")
        datasets.add(dataset.label)
    parts: dict[str, Sequence[str | int]] = {"architectures": grid.architectures, "seeds": grid.seeds}
    for field, values in parts.items():
        before: set[str | int] = set()
        for i, value in enumerate(values):
            if value in before:
                errors.add((field, errors.original_index(field, i)), f"{value!r} is listed already")
            before.add(value)


def check_overrides(grid: Grid, errors: Errors) -> None:
    """Report overrides that match no cell or are no valid recipe values."""
    base = grid.recipe.model_dump(exclude_unset=True)
    for i, override in enumerate(grid.overrides):
        location = errors.original_index("overrides", i)
        datasets = [dataset.name for dataset in grid.datasets]
        for field, value, known in (
            ("dataset", override.dataset, datasets),
            ("architecture", override.architecture, grid.architectures),
        ):
            replaced = known == PLACEHOLDERS[f"{field}s"] and any(gone[:1] == (f"{field}s",) for gone in errors.removed)
            if value is not None and value not in known and not replaced:
                errors.add(
                    ("overrides", location, field), f"{value!r} is not in this study; {suggest_closest(value, known)}"
                )
        try:
            Recipe.model_validate(override.recipe if override.whole else base | override.recipe)
        except ValidationError as error:
            rest = errors.add_validation_errors(override.recipe, error, ("overrides", location, "recipe"))
            grid.overrides[i] = override.model_copy(update={"recipe": rest})


def check_builds(grid: Grid, meta_methods: MetaMethods, errors: Errors, *, rehearsal: bool) -> None:
    """Report datasets, architectures and methods that cannot be built together, for the first seed.

    If no dataset or no architecture is right, a placeholder allows the rest to be checked.
    """
    found = check_datasets(grid, errors)
    first = grid.datasets[0]
    placeholder = (
        TEXT_PLACEHOLDER if first.name.partition(":")[0] in data.TEXTS else data.DatasetShape(3, 32, 10, 50_000)
    )
    for dataset, shape in found or [(first, placeholder)]:
        built = [
            plain
            for j, architecture in enumerate(grid.architectures)
            if (plain := check_architecture(grid, meta_methods, errors, dataset, shape, j, architecture))
        ]
        if not built:
            recipe = grid.recipe.model_copy(update={"initial": "random"})
            seed = grid.seeds[0]
            architecture = "wrn-10-1" if shape.image_size else "lstm-8"
            built = [Run(dataset=dataset, architecture=architecture, method=PLAIN_TRAINING, seed=seed, recipe=recipe)]
        for plain in built:
            check_methods(grid, meta_methods, errors, plain, shape, loadable=bool(found), rehearsal=rehearsal)


def check_datasets(grid: Grid, errors: Errors) -> list[tuple[DatasetSpec, data.DatasetShape]]:
    """Report datasets that cannot be found, and return the others with their shapes."""
    found = []
    for i, dataset in enumerate(grid.datasets):
        try:
            shape = data.dataset_shape(dataset.name, **dataset.options())
        except (ValueError, OSError) as error:
            errors.add(("datasets", errors.original_index("datasets", i)), str(error))
        else:
            found.append((dataset, shape))
    return found


def check_architecture(
    grid: Grid,
    meta_methods: MetaMethods,
    errors: Errors,
    dataset: DatasetSpec,
    shape: data.DatasetShape,
    j: int,
    architecture: str,
) -> Run | None:
    """Report an architecture that cannot be built for a dataset; else return its run of plain training."""
    try:
        recipe = grid.recipe_of(dataset, architecture)
        plain = Run(
            dataset=dataset, architecture=architecture, method=PLAIN_TRAINING, seed=grid.seeds[0], recipe=recipe
        )
    except ValidationError:
        return None  # an override, reported by `check_overrides`
    try:
        recipe.check_rates()
    except ValueError as error:
        errors.add(("recipe",), f"{dataset.label} · {architecture}: {error}")
    try:
        check_minibatches(meta_methods.build(plain, shape).net, plain, shape)
    except (ValueError, RuntimeError, OverflowError) as error:  # torch refuses sizes that no computer has
        errors.add(("architectures", errors.original_index("architectures", j)), str(error).partition("\n")[0])
        return None
    return plain


def check_minibatches(net: nn.Module, plain: Run, shape: data.DatasetShape) -> None:
    """Refuse minibatches that a network cannot be trained on.

    Args:
        net: the network.
        plain: run of plain training on the dataset and architecture to check.
        shape: shape of its data.

    Raises:
        ValueError: for BatchNorm and minibatches of one example, and for a text of fewer symbols than rows.
    """
    rows = plain.recipe.batch_size
    if min(rows, shape.train) == 1 and batch_norms(net):
        reason = "batch_size: 1" if rows == 1 else f"{plain.dataset.label} has one training example"
        raise ValueError(
            f"{plain.architecture} has BatchNorm layers, which normalise over a minibatch and so cannot be trained on "
            f"single examples ({reason})"
        )
    dataset, symbols = plain.dataset, plain.dataset.train_size
    if dataset.name.partition(":")[0] not in TEXTS or shape is TEXT_PLACEHOLDER:
        return
    if symbols is None and dataset.name not in DOWNLOADED_SHAPES:
        task = data.load(dataset.name, root=Path(), **dataset.options())
        assert isinstance(task, TextTask)
        symbols = len(task.train)
    if symbols is not None:  # a whole downloaded text is long enough
        check_text_length(symbols, rows, dataset.segment or SEGMENT)


def check_methods(
    grid: Grid,
    meta_methods: MetaMethods,
    errors: Errors,
    plain: Run,
    shape: data.DatasetShape,
    *,
    loadable: bool,
    rehearsal: bool,
) -> None:
    """Report methods that cannot be built, that watch validation data although none is held out, or lack minibatches.

    Args:
        grid: the grid whose methods are checked.
        meta_methods: cache of methods on the meta device.
        errors: collects the errors.
        plain: run of plain training on the dataset and architecture to check.
        shape: shape of its data.
        loadable: whether the dataset could be found.
        rehearsal: whether some members may get no minibatch.
    """
    for k, entry in enumerate(grid.methods):
        try:
            method = meta_methods.build(plain.model_copy(update={"method": entry.method}), shape)
            watches = any(part.watches == "validation" for part in methods_within(method))
            if watches and loadable and not has_validation_data(plain.dataset):
                reason = f"it watches validation data, but {plain.dataset.label} holds none out"
                raise ValueError(f"{reason}: give the dataset a number of examples, `validation`")
            for part in methods_within(method):
                if loadable and not rehearsal and isinstance(part, LatePhase):
                    part.check_minibatches(len(batch_bounds(shape.train, plain.recipe.batch_size)))
        except (Exception, SystemExit) as error:  # a user's own method can raise anything, which the user must see
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            location = ("methods", errors.original_index("methods", k))
            errors.add(location, f"{entry.method} on {plain.architecture}: {reason}")


def check_measures(grid: Grid, meta_methods: MetaMethods, errors: Errors) -> None:
    """Report measurements that the grid requests but none of its methods can provide."""
    asked = grid.evaluate
    least = {"path": 2} if asked.path else {}
    if asked.plane:
        least["plane"] = 2 if asked.plane.third else 3
    if "distances" in asked.each_epoch:
        least["each_epoch"] = 2
    if not least or errors.messages:
        return
    counts = set()
    for run in (group.run(grid.seeds[0]) for group in grid.cell_groups()):
        shape = data.dataset_shape(run.dataset.name, **run.dataset.options())
        counts.add(count_anchors(meta_methods.build(run, shape)))
    for name, needed in least.items():
        if all(count is not None and count < needed for count in counts):
            others = ", or with `third: sgd` two," if needed == 3 else ""
            errors.add(
                ("evaluate", name),
                f"no method of this study has the {NUMBER_WORDS[needed]} networks{others} that this needs",
            )


def has_validation_data(dataset: DatasetSpec) -> bool:
    """Return whether training data of a dataset are held out for validation.

    A downloaded dataset of images holds out none unless `validation` asks for it.
    """
    if dataset.name.partition(":")[0] in TEXTS:
        return dataset.validation != 0
    if dataset.validation is not None or dataset.name in DOWNLOADED_SHAPES:
        return bool(dataset.validation)
    return data.load(dataset.name, root=Path(), **dataset.options()).part("validation", 1) is not None
