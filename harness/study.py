"""A study: a YAML file naming a grid of cells. Checked as a whole, every error with its place in the file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

import data
from harness.check import STAND_INS, check_builds, check_labels, check_measures, check_overrides
from harness.expression import MethodSpec, parse
from harness.measures import Measures, read_switches
from harness.places import Errors, Lines, StudyError
from harness.quadratic_study import KEY, QuadraticStudy, check_quadratic
from harness.run import DatasetSpec, Run
from methods import Method
from methods.plugins import available
from methods.recipe import Part, Recipe

STUDIES = Path(__file__).parent / "studies"


class Override(Part):
    """Recipe values for some of the cells."""

    dataset: str | None = None
    architecture: str | None = None
    recipe: dict[str, Any]


class Entry(Part):
    """A method of the study and what tables call it."""

    label: str
    method: MethodSpec
    written: str = ""
    """The method as the file writes it, where also values equal to their default stand."""

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any, info: ValidationInfo) -> Any:
        """Read an expression, or one pair `label: expression`."""
        label, text = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (None, value)
        if not isinstance(text, str):
            raise ValueError("expected a method like swa(late_phase_bn(K=5), start=0.8), or one pair label: method")
        spec, errors = parse(text, (info.context or {})["methods"])
        if errors:
            raise ValueError("; ".join(errors))
        return {"label": str(label or spec), "method": spec, "written": text}


class StudyFile(BaseModel):
    """What a study's YAML may hold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    description: str = ""
    datasets: Annotated[list[DatasetSpec], Field(min_length=1)]
    architectures: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[list[Entry], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    recipe: Recipe
    overrides: list[Override] = []
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate: Measures = Measures()
    plugins: list[Path] = []

    @field_validator("datasets", mode="before")
    @classmethod
    def name_datasets(cls, value: Any) -> Any:
        """Let a plain name stand for a dataset, and refuse what is noted here and not asked for."""
        for item in value if isinstance(value, list) else []:
            noted = {"digest", "ood_digests", "version"} & set(item) if isinstance(item, dict) else ()
            if noted:
                raise ValueError(f"{', '.join(sorted(noted))}: found out from the files; leave it out")
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    @field_validator("evaluate", mode="before")
    @classmethod
    def switch_on(cls, value: Any) -> Any:
        """Let `path: true` stand for its defaults."""
        return read_switches(value)


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
    """

    name: str
    file: StudyFile
    methods: Mapping[str, type[Method]]
    plugins: tuple[Path, ...] = ()
    tuned: Mapping[tuple[str, str, str], MethodSpec] = field(default_factory=dict)
    caption: str = ""

    def recipe(self, dataset: DatasetSpec, architecture: str) -> Recipe:
        """Give the recipe of a (dataset, architecture) pair: the study's, with the overrides that match."""
        values = self.file.recipe.model_dump(exclude_unset=True)
        for override in self.file.overrides:
            if override.dataset in (None, dataset.name) and override.architecture in (None, architecture):
                values |= override.recipe
        return Recipe.model_validate(values)

    def cells(self) -> list[Cell]:
        """Expand the grid, seed by seed, so that an unfinished study has whole rows."""
        return [
            Cell(
                Run(
                    dataset=dataset,
                    architecture=architecture,
                    method=self.tuned.get((dataset.label, architecture, entry.label), entry.method),
                    seed=seed,
                    recipe=self.recipe(dataset, architecture),
                    precision=self.file.precision,
                    evaluate=self.file.evaluate,
                ),
                entry.label,
            )
            for seed in self.file.seeds
            for dataset in self.file.datasets
            for architecture in self.file.architectures
            for entry in self.file.methods
        ]


def find(name: str) -> Path:
    """Find a study by its name among those that come with the project, or by its path.

    Raises:
        StudyError: if there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise StudyError(f"study {name}: no such file")
        return path
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        raise StudyError(f"unknown study {name!r}; there are {', '.join(names())}, or give the path of a .yaml file")
    return path


def names() -> list[str]:
    """List the studies that come with the project."""
    return sorted(path.relative_to(STUDIES).with_suffix("").as_posix() for path in STUDIES.rglob("*.yaml"))


def study_name(path: Path) -> str:
    """Name a study by its file: one that comes with the project as `names` does, another without its folder."""
    inside = path.is_relative_to(STUDIES)
    return (path.relative_to(STUDIES).with_suffix("") if inside else Path(path.stem)).as_posix()


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
        raise StudyError(f"{path}: expected a mapping with the keys {', '.join(StudyFile.model_fields)}")
    errors = Errors(path, lines)
    if KEY in raw:
        return check_quadratic(study_name(path), raw, errors, plugins)
    raw = with_places(raw, path.parent)
    listed = raw["plugins"] if isinstance(raw.get("plugins"), list) else []
    files = [path.parent / plugin for plugin in listed if isinstance(plugin, str)] + list(plugins)
    try:
        methods = available(files)
        added = [name for name in methods if name not in available()]
    except (ValueError, FileNotFoundError) as error:
        errors.add(("plugins",), str(error))
        methods, added, files = available(), [], []
    errors.repeated_keys()
    file = validate(add_methods(raw, added), methods, errors)
    study = Study(study_name(path), file, methods, tuple(files)) if file else None
    if study:
        check_labels(study, errors)
        check_overrides(study, errors)
        check_builds(study, errors)
        check_measures(study, errors)
    errors.raise_any()
    assert study is not None
    study.file.datasets = [with_digest(dataset) for dataset in study.file.datasets]
    return study


def with_places(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the paths of datasets and companions (`KIND:PATH`) as relative to the study file, as its plugins' are."""

    def place(item: Any) -> Any:
        if isinstance(item, dict):
            return {**item, **{key: place(item[key]) for key in ("name", "ood") if key in item}}
        if isinstance(item, list):
            return [place(each) for each in item]
        kind, _, path = item.partition(":") if isinstance(item, str) else ("", "", "")
        return f"{kind}:{folder / Path(path).expanduser()}" if kind in data.WITH_PATH and path else item

    return {**raw, "datasets": place(raw["datasets"])} if "datasets" in raw else raw


def with_digest(dataset: DatasetSpec) -> DatasetSpec:
    """Note a dataset's version and the content of its own files and companions: if they change, so do the runs."""
    companions = tuple(data.digest(name) for name in dataset.ood or ())
    return dataset.model_copy(
        update={
            "digest": data.digest(dataset.name) or None,
            "ood_digests": companions if any(companions) else (),
            "version": data.VERSIONS.get(dataset.name.partition(":")[0], 1),
        }
    )


def add_methods(raw: dict[str, Any], added: Sequence[str]) -> dict[str, Any]:
    """Add plugin methods that the study does not name itself."""
    listed = raw.get("methods")
    if not isinstance(listed, list):
        return raw
    named = {name for item in listed for name in names_in(item)}
    return {**raw, "methods": [*listed, *(name for name in added if name not in named)]}


def names_in(item: Any) -> set[str]:
    """Give the names in a method's entry, written as an expression or as a pair of label and expression."""
    texts = item.values() if isinstance(item, dict) else [item]
    return {name for text in texts for name in re.findall(r"[^\W\d]\w*", str(text))}


def validate(raw: dict[str, Any], methods: Mapping[str, type[Method]], errors: Errors) -> StudyFile | None:
    """Check the values of a study; what is wrong is reported and replaced, so that the rest is checked too."""
    for _ in range(4):
        try:
            return StudyFile.model_validate(raw, context={"methods": methods})
        except ValidationError as error:
            raw = stand_in(errors.report(raw, error), raw)
    return None


def stand_in(rest: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """Put something plain in the place of required parts of a study that were wrong.

    Args:
        rest: the study without what is wrong.
        raw: the study as it was.
    """
    filled = {**rest, **{key: value for key, value in STAND_INS.items() if not rest.get(key)}}
    recipe = rest.get("recipe")
    if not isinstance(recipe, dict):
        written = raw.get("recipe")
        epochs = written.get("epochs") if isinstance(written, dict) else None
        recipe = {"epochs": epochs} if isinstance(epochs, int) and epochs > 0 else {}
    return {**filled, "recipe": {"epochs": 10_000, **recipe}}
