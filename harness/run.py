"""A run: one cell, described completely, and the key it is known by."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.expression import MethodSpec
from methods import Method
from methods.base import Need
from methods.recipe import Part, Recipe


class DatasetSpec(Part):
    """A dataset and how much of it is used."""

    name: str
    validation: Annotated[int, Field(ge=0)] | None = None
    train_size: Annotated[int, Field(ge=1)] | None = None
    digest: str | None = None
    """SHA-256 of the file of an `npz:` dataset, which stands for its path in the key."""

    @property
    def label(self) -> str:
        """Name the dataset in tables."""
        name = self.name.removeprefix("npz:").rpartition("/")[2].removesuffix(".npz")
        sizes = {"train": self.train_size, "validation": self.validation}
        return " ".join([name, *(f"{part}={size}" for part, size in sizes.items() if size is not None)])


class Run(Part):
    """Everything that decides a run's result, and nothing else."""

    dataset: DatasetSpec
    architecture: str
    method: MethodSpec
    seed: Annotated[int, Field(ge=0)]
    recipe: Recipe
    precision: Literal["float32", "bfloat16"] = "float32"

    def spec(self) -> dict[str, Any]:
        """Give the run as JSON values, without fields equal to their default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def key(self) -> str:
        """The SHA-256 of the canonical spec: a field added later with a default leaves old keys alone."""
        spec = self.spec()
        if self.dataset.digest:
            spec["dataset"] = {**spec["dataset"], "name": "npz"}
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        """Name the run for people."""
        return f"{self.method} · {self.architecture} · {self.dataset.label} · seed {self.seed}"

    def needed(self, need: Need, methods: Mapping[str, type[Method]]) -> "Run":
        """Give the run that a `Need` of this run's method names."""
        method: MethodSpec | None = self.method
        for _ in range(need.level):
            method = method.of if method else None
        method = method or MethodSpec(name="sgd", version=methods["sgd"].version)
        return self.model_copy(update={"method": method, "seed": need.seed})
