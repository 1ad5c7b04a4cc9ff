"""A grid of cells: datasets × architectures × methods × seeds, and the recipe that trains them."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from harness.parsing.method_expression import MethodSpec, parse_method
from harness.parsing.yaml_errors import suggest_closest
from harness.studies.extra_measurements import ExtraMeasurements, expand_switches
from harness.studies.run import DatasetSpec, Run
from methods.core.recipe import CheckedModel, FrozenModel, Recipe

RECIPES = Path(__file__).parents[1] / "recipes"
BASE = "base"
"""The key of a recipe that names the recipe to modify."""


def read_recipe(value: Any) -> Any:
    """Replace the name of a recipe by its values. The name stands alone or as the `base` of changed values.

    Raises:
        ValueError: if no recipe has the name.
    """
    if isinstance(value, str):
        value = {BASE: value}
    if not isinstance(value, dict) or BASE not in value:
        return value
    known = load_recipes()
    name = str(value[BASE])
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}; {suggest_closest(str(name), known)}, or write its values")
    return known[name] | {key: item for key, item in value.items() if key != BASE}


@lru_cache(maxsize=1)
def load_recipes() -> dict[str, dict[str, Any]]:
    """Load the recipes that come with the project: "file/name", such as "late-phase/sgd" → values."""
    return {
        f"{path.stem}/{name}": values
        for path in sorted(RECIPES.glob("*.yaml"))
        for name, values in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    }


class Override(FrozenModel):
    """Recipe values for some cells. They modify the grid's recipe, or replace it if they name a recipe."""

    dataset: str | None = None
    architecture: str | None = None
    recipe: dict[str, Any]
    whole: bool = False
    """Whether `recipe` replaces the grid's recipe."""

    @model_validator(mode="before")
    @classmethod
    def named(cls, value: Any) -> Any:
        """Replace the name of a recipe by its values."""
        if not isinstance(value, dict) or "recipe" not in value or "whole" in value:
            return value
        written = value["recipe"]
        whole = isinstance(written, str) or (isinstance(written, dict) and BASE in written)
        return {**value, "recipe": read_recipe(written), **({"whole": True} if whole else {})}


class Entry(FrozenModel):
    """A method of the study, and its label in tables."""

    label: str
    method: MethodSpec
    written: str = ""
    """The expression in the file, which may contain values equal to their default."""

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept an expression, or one pair `label: expression`."""
        if isinstance(value, Entry) or (isinstance(value, dict) and isinstance(value.get("method"), MethodSpec)):
            return value
        label, text = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else (None, value)
        if not isinstance(text, str):
            raise ValueError("expected a method like swa(late_phase_bn(K=5), start=0.8), or one pair label: method")
        spec, errors = parse_method(text, (info.context or {})["methods"])
        if errors:
            raise ValueError("; ".join(errors))
        return {"label": str(label or spec), "method": spec, "written": text}


class CellGroup(NamedTuple):
    """A group of cells that differ only in their seed: one method on one dataset and architecture of a grid."""

    grid: "Grid"
    dataset: DatasetSpec
    architecture: str
    entry: Entry

    @property
    def name(self) -> tuple[str, str, str]:
        """Dataset, architecture and label, as tables show them."""
        return self.dataset.label, self.architecture, self.entry.label

    def run(self, seed: int, method: MethodSpec | None = None) -> Run:
        """Return the run of a seed.

        Args:
            seed: a seed of the grid, or another one.
            method: used instead of the entry's method, such as the method with tuned values.
        """
        return Run(
            dataset=self.dataset,
            architecture=self.architecture,
            method=method or self.entry.method,
            seed=seed,
            recipe=self.grid.recipe_of(self.dataset, self.architecture),
            precision=self.grid.precision,
            evaluate=self.grid.evaluate,
        )


class Grid(CheckedModel):
    """The product of datasets, architectures, methods and seeds."""

    datasets: Annotated[list[DatasetSpec], Field(min_length=1)]
    architectures: Annotated[list[str], Field(min_length=1)]
    methods: Annotated[list[Entry], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    recipe: Recipe
    overrides: list[Override] = Field(default_factory=list)
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate: ExtraMeasurements = ExtraMeasurements()

    @field_validator("datasets", mode="before")
    @classmethod
    def name_datasets(cls, value: Any) -> Any:
        """Accept a name alone as a dataset, and refuse fields that the harness fills in itself."""
        for item in value if isinstance(value, list) else []:
            noted = {"digest", "ood_digests", "version"} & set(item) if isinstance(item, dict) else ()
            if noted:
                raise ValueError(f"{', '.join(sorted(noted))}: computed from the files; leave it out")
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list) else value

    @field_validator("recipe", mode="before")
    @classmethod
    def named(cls, value: Any) -> Any:
        """Replace the name of a recipe by its values."""
        return read_recipe(value)

    @field_validator("evaluate", mode="before")
    @classmethod
    def switch_on(cls, value: Any) -> Any:
        """Replace `path: true` by default values."""
        return expand_switches(value)

    def recipe_of(self, dataset: DatasetSpec, architecture: str) -> Recipe:
        """Return the recipe of a (dataset, architecture) pair: the grid's recipe with all matching overrides."""
        values = self.recipe.model_dump(exclude_unset=True)
        for override in self.overrides:
            if override.dataset in (None, dataset.name) and override.architecture in (None, architecture):
                values = {**override.recipe} if override.whole else values | override.recipe
        return Recipe.model_validate(values)

    def cell_groups(self) -> Iterator[CellGroup]:
        """Yield the cell groups of the grid."""
        for dataset in self.datasets:
            for architecture in self.architectures:
                for entry in self.methods:
                    yield CellGroup(self, dataset, architecture, entry)
