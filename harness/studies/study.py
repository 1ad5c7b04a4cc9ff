"""Loads a study: a YAML file that names a grid of cells. All errors are reported at once, with their locations."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

import data
from harness.cache.user_cache import DigestCache
from harness.parsing.method_expression import MethodSpec
from harness.parsing.plugins import available_methods
from harness.parsing.yaml_errors import Errors, StudyError
from harness.parsing.yaml_file import read_yaml
from harness.quadratic.quadratic_study import STUDY_KEY, QuadraticStudy, check_quadratic
from harness.studies.build_method import MetaMethods, without_garbage_collection
from harness.studies.check_study import PLACEHOLDERS, check_distinct_groups, check_grid, check_size
from harness.studies.figures import FigureRequest, check_figures
from harness.studies.grid import CellGroup, Grid, read_recipe
from harness.studies.paper_matching import PaperComparison, check_paper, comparison_table
from harness.studies.paper_values import Paper
from harness.studies.run import DatasetSpec, Run
from harness.studies.study_files import find_study, study_name
from methods import Method
from methods.core.recipe import MOST_EPOCHS, CheckedModel

if TYPE_CHECKING:
    import pandas as pd


class StudyFile(CheckedModel):
    """The keys of a study's YAML file besides those of a grid.

    A file with `grids` has several grids. The grid keys at the top level are then their defaults.
    """

    description: str = ""
    plugins: list[Path] = Field(default_factory=list)
    grids: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    paper: dict[str, Any] | None = None
    figures: list[FigureRequest] = Field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One run of a study, with the method's label in tables."""

    run: Run
    label: str


@dataclass(frozen=True)
class Study:
    """A valid study.

    Attributes:
        name: name of the study.
        file: keys of the YAML file besides those of grids.
        grids: the grids of cells.
        methods: all methods by name.
        plugins: plugin files that define methods.
        tuned: (dataset, architecture, label) → the method with tuned values.
        caption: note on tuning for the leaderboard.
        paper: values that a paper publishes; None for none.
        comparisons: for each published value, the cells to compare with it.
        figure_groups: for each requested figure, the indices of the cell groups that it shows.
        banner: warning that must be shown with all results of the study; "" for none.
        meta_methods: methods on the meta device that the checks have built.
    """

    name: str
    file: StudyFile
    grids: tuple[Grid, ...]
    methods: Mapping[str, type[Method]]
    plugins: tuple[Path, ...] = ()
    tuned: Mapping[tuple[str, str, str], MethodSpec] = field(default_factory=dict)
    caption: str = ""
    paper: Paper | None = None
    comparisons: tuple[PaperComparison, ...] = ()
    figure_groups: tuple[tuple[int, ...], ...] = ()
    banner: str = ""
    meta_methods: MetaMethods | None = field(default=None, compare=False, repr=False)

    def cell_groups(self) -> Iterator[CellGroup]:
        """Yield the cell groups of all grids."""
        for grid in self.grids:
            yield from grid.cell_groups()

    def cells(self) -> list[Cell]:
        """Expand the grids into cells, ordered by seed, so that an unfinished study has complete rows."""
        seeds = dict.fromkeys(seed for grid in self.grids for seed in grid.seeds)
        return [
            Cell(group.run(seed, self.tuned.get(group.name)), group.entry.label)
            for seed in seeds
            for group in self.cell_groups()
            if seed in group.grid.seeds
        ]

    def published_values(self) -> "pd.DataFrame | None":
        """Return the published values as a table for `analysis.compare`; None if the study has none."""
        return None if self.paper is None else comparison_table(self.paper, self.comparisons, list(self.cell_groups()))


@without_garbage_collection()
def load(name: str, plugins: Sequence[Path] = ()) -> Study | QuadraticStudy:
    """Load a study and check everything that can be checked before training.

    Args:
        name: name of a study that comes with the project, or the path of a YAML file.
        plugins: Python files with more methods. The study runs those that it does not list with their defaults.

    Raises:
        StudyError: listing all errors, each with its line and location in the file.
    """
    path = find_study(name)
    text, raw, lines = read_yaml(path)
    if not isinstance(raw, dict):
        raise StudyError(
            f"{path}: expected a mapping with the keys {', '.join([*StudyFile.model_fields, *Grid.model_fields])}"
        )
    errors = Errors(path, lines)
    if STUDY_KEY in raw:
        return check_quadratic(study_name(path), raw, errors, plugins)
    listed = raw["plugins"] if isinstance(raw.get("plugins"), list) else []
    files = [path.parent / plugin for plugin in listed if isinstance(plugin, str)] + list(plugins)
    try:
        methods = available_methods(files)
        added = [name for name in methods if name not in available_methods()]
    except (ValueError, OSError) as error:
        errors.add(("plugins",), str(error))
        methods, added, files = available_methods(), [], []
    errors.add_repeated_keys()
    file = read_file({key: value for key, value in raw.items() if key not in Grid.model_fields}, errors)
    grids, meta_methods = [], MetaMethods(methods)
    common = {key: raw[key] for key in Grid.model_fields if key in raw}
    parts = [{}] if file.grids is None else file.grids
    for i, part in enumerate(parts):
        merged = resolve_paths(common | part, path.parent)
        inside = errors.for_part(("grids", errors.original_index("grids", i)), part) if file.grids else errors
        grid = validate_grid(merged if i else add_plugin_methods(merged, added, [raw, *parts]), methods, inside)
        if grid and check_size(grid, inside):
            check_grid(grid, meta_methods, inside)
            grids.append(grid)
    errors.raise_if_any()
    check_distinct_groups(grids, errors)
    groups = [group for grid in grids for group in grid.cell_groups()]
    check_figures(file.figures, groups, errors)
    figure_groups = tuple(request.select_groups(groups) for request in file.figures) if not errors.messages else ()
    paper, comparisons = (check_paper(raw["paper"], groups, errors) if "paper" in raw else None) or (None, ())
    errors.raise_if_any()
    for grid in grids:
        grid.datasets = [with_digest(dataset) for dataset in grid.datasets]
    if not file.description and text.startswith("#"):
        file.description = text.partition("\n")[0].lstrip("# ")
    return Study(
        study_name(path),
        file,
        tuple(grids),
        methods,
        tuple(files),
        paper=paper,
        comparisons=comparisons,
        figure_groups=figure_groups,
        meta_methods=meta_methods,
    )


def read_file(raw: dict[str, Any], errors: Errors) -> StudyFile:
    """Validate the keys of a study besides grids. Wrong values are reported and left out."""
    try:
        return StudyFile.model_validate(raw)
    except ValidationError as error:
        rest = errors.add_validation_errors(raw, error)
    grids = rest.pop("grids", raw.get("grids") and [])  # there may be no right one left: then none is checked
    try:
        file = StudyFile.model_validate(rest)
    except ValidationError:  # what is left of a part cannot stand alone
        file = StudyFile()
    return file.model_copy(update={"grids": grids})


def resolve_paths(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve the paths of datasets and OOD datasets (`KIND:PATH`) relative to the folder of the study file."""

    def resolve(item: Any) -> Any:
        if isinstance(item, dict):
            return {**item, **{key: resolve(item[key]) for key in ("name", "ood") if key in item}}
        if isinstance(item, list):
            return [resolve(each) for each in item]
        kind, _, path = item.partition(":") if isinstance(item, str) else ("", "", "")
        return f"{kind}:{folder / expand_home(path)}" if kind in data.WITH_PATH and path else item

    return {**raw, "datasets": resolve(raw["datasets"])} if "datasets" in raw else raw


def expand_home(path: str) -> Path:
    """Replace `~` or `~user` at the beginning of a path by a home; without such a user, the path names no file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path.cwd() / path  # absolute, so that nothing that reads it looks for a home again


def with_digest(dataset: DatasetSpec) -> DatasetSpec:
    """Add the dataset's version and the digests of its files and OOD datasets. If they change, so do the run keys."""
    known = DigestCache()
    ood_digests = tuple(data.digest(name, known) for name in dataset.ood or ())
    return dataset.model_copy(
        update={
            "digest": data.digest(dataset.name, known) or None,
            "ood_digests": ood_digests if any(ood_digests) else (),
            "version": data.VERSIONS.get(dataset.name.partition(":")[0], 1),
        }
    )


def add_plugin_methods(raw: dict[str, Any], added: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the plugin methods that no part of the study names to a grid."""
    listed = raw.get("methods")
    if not isinstance(listed, list):
        return raw
    lists = [part["methods"] for part in parts if isinstance(part.get("methods"), list)]
    named = {name for each in lists for item in each for name in method_names_in(item)}
    return {**raw, "methods": [*listed, *(name for name in added if name not in named)]}


def method_names_in(item: Any) -> set[str]:
    """Return the identifiers in a method's entry, which is an expression or a pair `label: expression`."""
    texts = item.values() if isinstance(item, dict) else [item]
    return {name for text in texts for name in re.findall(r"[^\W\d]\w*", str(text))}


def validate_grid(raw: dict[str, Any], methods: Mapping[str, type[Method]], errors: Errors) -> Grid | None:
    """Validate a grid. Wrong values are reported and replaced by placeholders, so that the rest is checked too."""
    for _ in range(4):
        try:
            return Grid.model_validate(raw, context={"methods": methods})
        except ValidationError as error:
            raw = fill_placeholders(errors.add_validation_errors(raw, error), raw)
    return None


def fill_placeholders(rest: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """Fill required parts of a grid that were wrong with placeholders.

    Args:
        rest: the grid without its wrong parts.
        raw: the original grid.
    """
    filled = {**rest, **{key: value for key, value in PLACEHOLDERS.items() if not rest.get(key)}}
    recipe = rest.get("recipe")
    if not isinstance(recipe, (dict, str)):
        written = raw.get("recipe")
        epochs = written.get("epochs") if isinstance(written, dict) else None
        recipe = {"epochs": epochs} if type(epochs) is int and 0 < epochs <= MOST_EPOCHS else {}
    with suppress(ValueError):  # an unknown name, which the next validation reports
        recipe = {"epochs": 10_000, **read_recipe(recipe)}
    return {**filled, "recipe": recipe}
