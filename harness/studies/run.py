"""A run: one cell, described completely, and the key it is known by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

import data
from harness.parsing.method_expression import MethodSpec
from harness.store.run_folder import key_of
from harness.studies.extra_measures import Measures
from methods import Method
from methods.core.declarations import Need
from methods.core.recipe import FrozenModel, Recipe


class DatasetSpec(FrozenModel):
    """A dataset, how much of it is used, and what it is tested against."""

    name: str
    validation: Annotated[int, Field(ge=0)] | None = None
    """Training examples that are held out to choose on; None for the dataset's default."""
    train_size: Annotated[int, Field(ge=1)] | None = None
    """Train on so many examples only, a fixed stratified subset of images or the beginning of a text."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of training labels that are replaced by random ones, the same for all methods."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side of the square that training images lose, in pixels."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the images of an image folder, in pixels."""
    segment: Annotated[int, Field(ge=1)] | None = None
    """Symbols of a text through which gradients flow back."""
    ood: tuple[str, ...] | None = None
    """Out-of-distribution companions; None for the dataset's usual ones."""
    corruptions: Literal["generated", "official", "none"] = "generated"
    """Corrupted test images: generated here, or the official files."""
    digest: str | None = None
    """SHA-256 of the files of a dataset given by a path, which stands for the path in the key."""
    ood_digests: tuple[str, ...] = ()
    """The same for each companion given by a path."""
    version: int = 1
    """Of what the dataset gives (`data.VERSIONS`)."""

    @field_validator("ood", mode="before")
    @classmethod
    def listed(cls, value: Any) -> Any:
        """Ask for a list where a name was written alone."""
        if isinstance(value, str):
            raise ValueError(f"expected a list of companions, as in [{value}]")
        return value

    @property
    def label(self) -> str:
        """Name the dataset in tables."""
        kind, _, path = self.name.partition(":")
        name = Path(self.name if kind in data.MADE else path or self.name)
        sizes = {"train": self.train_size, "validation": self.validation}
        changes = {"label_noise": self.label_noise or None, "cutout": self.cutout or None}
        rest = {"image_size": self.image_size, "segment": self.segment}
        shown = [f"{part}={value}" for part, value in (sizes | changes | rest).items() if value is not None]
        return " ".join([name.stem if kind in data.WITH_PATH else str(name), *shown])

    def options(self) -> dict[str, Any]:
        """Give what `data.load` takes besides the name; defaults left out."""
        return self.model_dump(exclude={"name", "digest", "ood_digests", "version"}, exclude_defaults=True)

    def portable(self) -> dict[str, Any]:
        """Give the spec as JSON values, with digests in the place of paths."""
        spec = self.model_dump(mode="json", exclude_defaults=True)
        if self.digest:
            spec["name"] = self.name.partition(":")[0]
        if self.ood_digests:
            spec["ood"] = [name.partition(":")[0] for name in self.ood or ()]
        return spec


class Run(FrozenModel):
    """Everything that decides a run's result, and nothing else."""

    dataset: DatasetSpec
    architecture: str
    method: MethodSpec
    seed: Annotated[int, Field(ge=0)]
    recipe: Recipe
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate: Measures = Measures()

    def spec(self) -> dict[str, Any]:
        """Give the run as JSON values, without fields equal to their default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def key(self) -> str:
        """The SHA-256 of the canonical spec: a field added later with a default leaves old keys alone."""
        spec = self.spec()
        spec["dataset"] = self.dataset.portable()
        return key_of(spec)

    @property
    def place(self) -> str:
        """Name what is trained, but for the method."""
        return f"{self.architecture} · {self.dataset.label} · seed {self.seed}"

    def tags(self) -> dict[str, str]:
        """Describe the run to the tracking store."""
        return {
            "method": str(self.method),
            "method_version": str(self.method.version),
            "dataset": self.dataset.label,
            "architecture": self.architecture,
            "seed": str(self.seed),
        }

    def __str__(self) -> str:
        """Name the run for people."""
        return f"{self.method} · {self.place}"

    def needed(self, need: Need, methods: Mapping[str, type[Method]]) -> "Run":
        """Give the run that a `Need` of this run's method names."""
        method: MethodSpec | None = self.method
        for _ in range(need.level):
            method = method.of if method else None
        run = self.model_copy(update={"method": method}) if method else self.plain(methods)
        return run.model_copy(update={"seed": need.seed})

    def plain(self, methods: Mapping[str, type[Method]]) -> "Run":
        """Give the run of plain training in the same cell."""
        return self.model_copy(update={"method": MethodSpec(name="sgd", version=methods["sgd"].version)})
