"""A study: a YAML file naming a grid of cells. Checked as a whole, every error with its place in the file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import data
from harness.parsing.method_expression import MethodSpec
from harness.parsing.plugins import available
from harness.parsing.yaml_errors import Errors, Lines, StudyError
from harness.quadratic.quadratic_study import KEY, QuadraticStudy, check_quadratic
from harness.studies.build_method import Imagined
from harness.studies.check_study import STAND_INS, check_grid, check_places
from harness.studies.figures import Drawing, check_drawings
from harness.studies.grid import Grid, Place, read_recipe
from harness.studies.paper_matching import Beside, check_paper, tabulate
from harness.studies.paper_values import Paper
from harness.studies.run import DatasetSpec, Run
from harness.studies.study_files import find, study_name
from methods import Method

if TYPE_CHECKING:
    import pandas as pd


class StudyFile(BaseModel):
    """What a study's YAML may hold besides the keys of a grid: several grids, of which those keys are the defaults."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    description: str = ""
    plugins: list[Path] = []
    grids: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    paper: dict[str, Any] | None = None
    figures: list[Drawing] = []


@dataclass(frozen=True)
class Cell:
    """One run of a study, with the name that its tables give the method."""

    run: Run
    label: str


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        tuned: (dataset, architecture, label) → the method with the values that tuning chose.
        caption: what a leaderboard says of tuning.
        paper: what a paper states; `beside` says for each value which cells stand beside it.
        drawn: for each figure of the file, the numbers of the places that it shows.
        banner: what must stand wherever its figures show; "" for nothing.
        imagined: the methods that its checks have built.
    """

    name: str
    file: StudyFile
    grids: tuple[Grid, ...]
    methods: Mapping[str, type[Method]]
    plugins: tuple[Path, ...] = ()
    tuned: Mapping[tuple[str, str, str], MethodSpec] = field(default_factory=dict)
    caption: str = ""
    paper: Paper | None = None
    beside: tuple[Beside, ...] = ()
    drawn: tuple[tuple[int, ...], ...] = ()
    banner: str = ""
    imagined: Imagined | None = field(default=None, compare=False, repr=False)

    def places(self) -> Iterator[Place]:
        """List where methods stand in the study."""
        for grid in self.grids:
            yield from grid.places()

    def cells(self) -> list[Cell]:
        """Expand the grids, seed by seed, so that an unfinished study has whole rows."""
        seeds = dict.fromkeys(seed for grid in self.grids for seed in grid.seeds)
        return [
            Cell(place.run(seed, self.tuned.get(place.name)), place.entry.label)
            for seed in seeds
            for place in self.places()
            if seed in place.grid.seeds
        ]

    def stated(self) -> "pd.DataFrame | None":
        """Give the paper's values as `analysis.compare` takes them; None if the study has none."""
        return None if self.paper is None else tabulate(self.paper, self.beside, list(self.places()))


def load(name: str, plugins: Sequence[Path] = ()) -> Study | QuadraticStudy:
    """Read a study and check everything that can be checked before training.

    Args:
        name: of a study that comes with the project, or the path of a YAML file.
        plugins: Python files whose methods join the study, with their defaults where it does not list them.

    Raises:
        StudyError: listing all errors, each with its line and its place in the file.
    """
    path = find(name)
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        lines = Lines(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(
            f"{path}: expected a mapping with the keys {', '.join([*StudyFile.model_fields, *Grid.model_fields])}"
        )
    errors = Errors(path, lines)
    if KEY in raw:
        return check_quadratic(study_name(path), raw, errors, plugins)
    listed = raw["plugins"] if isinstance(raw.get("plugins"), list) else []
    files = [path.parent / plugin for plugin in listed if isinstance(plugin, str)] + list(plugins)
    try:
        methods = available(files)
        added = [name for name in methods if name not in available()]
    except (ValueError, FileNotFoundError) as error:
        errors.add(("plugins",), str(error))
        methods, added, files = available(), [], []
    errors.repeated_keys()
    file = read_file({key: value for key, value in raw.items() if key not in Grid.model_fields}, errors)
    grids, imagined = [], Imagined(methods)
    common = {key: raw[key] for key in Grid.model_fields if key in raw}
    for i, part in enumerate(file.grids or [{}]):
        merged = with_places(common | part, path.parent)
        inside = errors.inside(("grids", i), part) if file.grids else errors
        grid = validate(merged if i else add_methods(merged, added, raw), methods, inside)
        if grid:
            check_grid(grid, imagined, inside)
            grids.append(grid)
    errors.raise_any()
    check_places(grids, errors)
    places = [place for grid in grids for place in grid.places()]
    check_drawings(file.figures, places, errors)
    drawn = tuple(drawing.choose(places) for drawing in file.figures) if not errors.found else ()
    paper, beside = (check_paper(raw["paper"], places, errors) if "paper" in raw else None) or (None, ())
    errors.raise_any()
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
        beside=beside,
        drawn=drawn,
        imagined=imagined,
    )


def read_file(raw: dict[str, Any], errors: Errors) -> StudyFile:
    """Check what a study holds besides grids; what is wrong is reported and left out."""
    try:
        return StudyFile.model_validate(raw)
    except ValidationError as error:
        return StudyFile.model_validate(errors.report(raw, error))


def with_places(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the paths of datasets and OOD datasets (`KIND:PATH`) as relative to the study file, as its plugins' are."""

    def place(item: Any) -> Any:
        if isinstance(item, dict):
            return {**item, **{key: place(item[key]) for key in ("name", "ood") if key in item}}
        if isinstance(item, list):
            return [place(each) for each in item]
        kind, _, path = item.partition(":") if isinstance(item, str) else ("", "", "")
        return f"{kind}:{folder / Path(path).expanduser()}" if kind in data.WITH_PATH and path else item

    return {**raw, "datasets": place(raw["datasets"])} if "datasets" in raw else raw


def with_digest(dataset: DatasetSpec) -> DatasetSpec:
    """Note a dataset's version and the content of its own files and OOD datasets: if they change, so do the runs."""
    ood_digests = tuple(data.digest(name) for name in dataset.ood or ())
    return dataset.model_copy(
        update={
            "digest": data.digest(dataset.name) or None,
            "ood_digests": ood_digests if any(ood_digests) else (),
            "version": data.VERSIONS.get(dataset.name.partition(":")[0], 1),
        }
    )


def add_methods(raw: dict[str, Any], added: Sequence[str], study: dict[str, Any]) -> dict[str, Any]:
    """Add to a grid the plugin methods that the study names nowhere."""
    listed = raw.get("methods")
    if not isinstance(listed, list):
        return raw
    parts = [study, *(part for part in study.get("grids") or [] if isinstance(part, dict))]
    lists = [part["methods"] for part in parts if isinstance(part.get("methods"), list)]
    named = {name for each in lists for item in each for name in names_in(item)}
    return {**raw, "methods": [*listed, *(name for name in added if name not in named)]}


def names_in(item: Any) -> set[str]:
    """Give the names in a method's entry, written as an expression or as a pair of label and expression."""
    texts = item.values() if isinstance(item, dict) else [item]
    return {name for text in texts for name in re.findall(r"[^\W\d]\w*", str(text))}


def validate(raw: dict[str, Any], methods: Mapping[str, type[Method]], errors: Errors) -> Grid | None:
    """Check the values of a grid; what is wrong is reported and replaced, so that the rest is checked too."""
    for _ in range(4):
        try:
            return Grid.model_validate(raw, context={"methods": methods})
        except ValidationError as error:
            raw = stand_in(errors.report(raw, error), raw)
    return None


def stand_in(rest: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """Put something plain in the place of required parts of a grid that were wrong.

    Args:
        rest: the grid without what is wrong.
        raw: the grid as it was.
    """
    filled = {**rest, **{key: value for key, value in STAND_INS.items() if not rest.get(key)}}
    recipe = rest.get("recipe")
    if not isinstance(recipe, (dict, str)):
        written = raw.get("recipe")
        epochs = written.get("epochs") if isinstance(written, dict) else None
        recipe = {"epochs": epochs} if isinstance(epochs, int) and epochs > 0 else {}
    return {**filled, "recipe": {"epochs": 10_000, **read_recipe(recipe)}}
