"""Rates of plain training: those that a benchmark measured on a device, and what they say of other networks."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data import Shape
from harness.planning.study_cost import HOURS, MEASURED, forward_flops
from harness.planning.workload import Network

FROM_FLOPS = "from FLOPs"
FAR = 10.0
"""Times as many operations as a network's, from which on another one's rate says little of it."""
Precision = Literal["float32", "bfloat16"]
Count = Annotated[int, Field(ge=1)]


class Cell(BaseModel):
    """What a benchmark measured: one network, its data, and the rate of a method. Other keys are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    architecture: str
    image: tuple[Count, Count, Count]
    """Channels, height, width."""
    classes: Count
    batch_size: Count
    precision: Precision
    images_per_second: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def counted(self) -> "Cell":
        """Refuse a network that does not exist, or not for these images."""
        if self.image[1] != self.image[2]:
            raise ValueError(f"image: expected as high as wide, got {list(self.image)}")
        _ = self.operations
        return self

    @property
    def operations(self) -> float:
        """Count the floating-point operations of one image's forward pass."""
        return forward_flops(self.architecture, Shape(self.image[0], self.image[1], self.classes, 1), 0)


class Device(BaseModel):
    """What a benchmark ran on. Other keys are ignored."""

    name: str
    type: Literal["cuda", "cpu"]


class RatesFile(BaseModel):
    """What a benchmark writes: where it ran, by which command, from which commit, and what it measured."""

    device: Device
    command: str
    commit: str
    cells: list[dict[str, object]]


class RatesError(ValueError):
    """A file of rates that cannot be used."""


class Rate(NamedTuple):
    """The rate of a network's plain training.

    Attributes:
        images_per_second: examples, of text segments.
        origin: "measured" or "target" of the network's own rate; else, that it is in proportion to FLOPs.
        network: whose rate was taken.
    """

    images_per_second: float
    origin: str
    network: str


@dataclass(frozen=True)
class Rates:
    """The rates of one device in one precision.

    Attributes:
        name: of device and precision, for a table's head.
        kind: "measured", or "target".
        about: where they are from, in a sentence.
        cells: plain training of some networks.
        unit: what there are several of.
    """

    name: str
    kind: Literal["measured", "target"]
    about: str
    cells: tuple[Cell, ...]
    unit: Literal["GPU", "CPU"] = "GPU"

    def of(self, network: Network) -> Rate:
        """Give a network's rate: its own, or that of the one whose number of operations is nearest, in proportion.

        Where a network has several, of the nearest batch size the fastest. From a far larger network, the rate is
        optimistic: a small one keeps a device less busy.
        """

        def distance(cell: Cell) -> tuple[bool, float, float, float]:
            return (
                not same(cell, network),
                abs(math.log(cell.operations / network.operations)),
                abs(math.log(cell.batch_size / network.batch_size)),
                -cell.images_per_second,
            )

        cell = min(self.cells, key=distance)
        if same(cell, network):
            return Rate(cell.images_per_second, self.kind, cell.architecture)
        ratio = cell.operations / network.operations
        origin = f"{FROM_FLOPS} (optimistic)" if ratio > FAR else FROM_FLOPS
        return Rate(cell.images_per_second * ratio, origin, cell.architecture)


def same(cell: Cell, network: Network) -> bool:
    """Say whether a cell is of this network and size of images; what the number of classes adds is nothing."""
    return (cell.architecture, cell.image) == (network.architecture, network.image)


def paper_rates() -> Rates:
    """Give the one rate that the papers tell: of the training that the late-phase paper timed."""
    architecture, data, epochs = MEASURED
    rate = data.train * epochs / (HOURS * 3600)
    return Rates(
        "2080 Ti, float32",
        "measured",
        "measured by von Oswald et al. (2021, Table 17) on one NVIDIA GeForce 2080 Ti: 17,714 s, about 4.92 h, for 200 "
        "epochs of a WRN-28-10 on CIFAR-10",
        (on_cifar10(architecture, "float32", rate),),
    )


def target_rates() -> Rates:
    """Give the rates that this project aims at; nobody has measured them."""
    return Rates(
        "H200, bfloat16, target",
        "target",
        "**a target, not measured**: what this project aims at on one NVIDIA H200, 9,000 images/s for a WRN-28-10, and "
        "160 epochs of a cResNet20 on CIFAR-10 in three minutes",
        (on_cifar10("wrn-28-10", "bfloat16", 9000), on_cifar10("cresnet20", "bfloat16", 160 * 50_000 / 180)),
    )


def on_cifar10(architecture: str, precision: Precision, images_per_second: float) -> Cell:
    """Make the cell of a network on CIFAR-10, in the papers' minibatches of 128."""
    return Cell(
        architecture=architecture,
        image=(3, 32, 32),
        classes=10,
        batch_size=128,
        precision=precision,
        images_per_second=images_per_second,
    )


def read_rates(path: Path) -> list[Rates]:
    """Read what a benchmark measured of plain training (`sgd`), each precision by itself.

    Raises:
        RatesError: for a file that is missing, is not of this form, or holds no such rate.
    """
    try:
        file = RatesFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
        plain = [(i, raw) for i, raw in enumerate(file.cells) if raw.get("method") == "sgd"]
    except FileNotFoundError as error:
        raise RatesError(f"{path}: no such file; a benchmark on a GPU writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RatesError(f"{path}: not readable as JSON: {error}") from error
    except ValidationError as error:
        raise RatesError(describe(path, (), error)) from error
    if not plain:
        raise RatesError(f"{path}: none of its {len(file.cells)} cells is of the method sgd, whose rates are needed")
    cells = []
    for i, raw in plain:
        try:
            cells.append(Cell.model_validate(raw))
        except ValidationError as error:
            raise RatesError(describe(path, ("cells", i), error)) from error
    about = f"measured by `{file.command}` at commit {file.commit} (`{path.as_posix()}`)"
    unit: Literal["GPU", "CPU"] = "GPU" if file.device.type == "cuda" else "CPU"
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    return [
        Rates(f"{file.device.name}, {precision}", "measured", about, of_one, unit)
        for precision in precisions
        if (of_one := tuple(cell for cell in cells if cell.precision == precision))
    ]


def describe(path: Path, place: Sequence[str | int], error: ValidationError) -> str:
    """Say of each value that is wrong where it stands."""
    lines = []
    for each in error.errors(include_url=False):
        where = ".".join(map(str, [*place, *each["loc"]]))
        got = "" if each["type"] == "missing" or not each["loc"] else f" (got {each['input']!r})"
        lines.append(f"{path}: {where + ': ' if where else ''}{each['msg']}{got}")
    return "\n".join(lines)
