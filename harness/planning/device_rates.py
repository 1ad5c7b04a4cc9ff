"""Rates of plain training on a device, as a benchmark measured them, and estimates for networks it did not measure."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data import DatasetShape
from harness.planning.study_cost import REFERENCE_HOURS, REFERENCE_TRAINING, forward_flops
from harness.planning.workload import Network

FROM_FLOPS = "from FLOPs"
OPTIMISTIC_RATIO = 10.0
"""A rate is called optimistic if the network it is estimated from needs more than this many times the operations."""
Precision = Literal["float32", "bfloat16"]
Count = Annotated[int, Field(ge=1)]


class BenchmarkCell(BaseModel):
    """One measurement of a benchmark: a network, its data, and the rate of training. Other keys are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    architecture: str
    image: tuple[Count, Count, Count]
    """Channels, height, width."""
    classes: Count
    batch_size: Count
    precision: Precision
    images_per_second: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def check_network(self) -> "BenchmarkCell":
        """Raise an error for a network that does not exist, or not for these images."""
        if self.image[1] != self.image[2]:
            raise ValueError(f"image: expected as high as wide, got {list(self.image)}")
        _ = self.forward_flops
        return self

    @property
    def forward_flops(self) -> float:
        """The floating-point operations of one image's forward pass."""
        return forward_flops(self.architecture, DatasetShape(self.image[0], self.image[1], self.classes, 1), 0)


class Device(BaseModel):
    """The device that a benchmark ran on. Other keys are ignored."""

    name: str
    type: Literal["cuda", "cpu"]


class RatesFile(BaseModel):
    """The file that a benchmark writes: its device, its command, its commit, and its measurements."""

    device: Device
    command: str
    commit: str
    cells: list[dict[str, object]]


class RatesError(ValueError):
    """A file of measured rates cannot be used."""


class TrainingRate(NamedTuple):
    """The rate of a network's plain training.

    Attributes:
        images_per_second: images per second; segments per second for text.
        origin: "measured" or "target" if it is the network's own rate; else that it is estimated from FLOPs.
        network: the name of the network from whose rate it is estimated, or its own name.
    """

    images_per_second: float
    origin: str
    network: str


@dataclass(frozen=True)
class DeviceRates:
    """The rates of one device in one precision.

    Attributes:
        name: device and precision, for the head of a table.
        kind: "measured" or "target".
        about: the source of the rates, in a sentence.
        cells: the rates of plain training of some networks.
        unit: the kind of device.
    """

    name: str
    kind: Literal["measured", "target"]
    about: str
    cells: tuple[BenchmarkCell, ...]
    unit: Literal["GPU", "CPU"] = "GPU"

    def rate_of(self, network: Network) -> TrainingRate:
        """Return the rate of a network: its own if it is known, else an estimate from FLOPs.

        The estimate scales the rate of the network whose number of operations is nearest. It is optimistic if that
        network is far larger, because a small network keeps a device less busy. Of several rates of a network, the
        one with the nearest batch size counts, and of these the fastest.
        """

        def distance(cell: BenchmarkCell) -> tuple[bool, float, float, float]:
            return (
                not is_same_network(cell, network),
                abs(math.log(cell.forward_flops / network.forward_flops)),
                abs(math.log(cell.batch_size / network.batch_size)),
                -cell.images_per_second,
            )

        cell = min(self.cells, key=distance)
        if is_same_network(cell, network):
            return TrainingRate(cell.images_per_second, self.kind, cell.architecture)
        ratio = cell.forward_flops / network.forward_flops
        origin = f"{FROM_FLOPS} (optimistic)" if ratio > OPTIMISTIC_RATIO else FROM_FLOPS
        return TrainingRate(cell.images_per_second * ratio, origin, cell.architecture)


def is_same_network(cell: BenchmarkCell, network: Network) -> bool:
    """Return whether a cell has this architecture and image size. The number of classes hardly affects the rate."""
    return (cell.architecture, cell.image) == (network.architecture, network.image)


def paper_rates() -> DeviceRates:
    """Return the only rate that the papers report: that of the training which the late-phase paper timed."""
    architecture, data, epochs = REFERENCE_TRAINING
    rate = data.train * epochs / (REFERENCE_HOURS * 3600)
    return DeviceRates(
        "2080 Ti, float32",
        "measured",
        "measured by von Oswald et al. (2021, Table 17) on one NVIDIA GeForce 2080 Ti: 17,714 s, about 4.92 h, for 200 "
        "epochs of a WRN-28-10 on CIFAR-10",
        (cifar10_cell(architecture, "float32", rate),),
    )


def target_rates() -> DeviceRates:
    """Return the rates that this project aims at. They are not measured."""
    return DeviceRates(
        "H200, bfloat16, target",
        "target",
        "**a target, not measured**: what this project aims at on one NVIDIA H200, 9,000 images/s for a WRN-28-10, and "
        "160 epochs of a cResNet20 on CIFAR-10 in three minutes",
        (cifar10_cell("wrn-28-10", "bfloat16", 9000), cifar10_cell("cresnet20", "bfloat16", 160 * 50_000 / 180)),
    )


def cifar10_cell(architecture: str, precision: Precision, images_per_second: float) -> BenchmarkCell:
    """Return the cell of a network on CIFAR-10, with the papers' batch size of 128."""
    return BenchmarkCell(
        architecture=architecture,
        image=(3, 32, 32),
        classes=10,
        batch_size=128,
        precision=precision,
        images_per_second=images_per_second,
    )


def read_rates(path: Path) -> list[DeviceRates]:
    """Read the rates of plain training (`sgd`) from a benchmark's file, separately for each precision.

    Raises:
        RatesError: if the file is missing, has another form, or holds no rate of plain training.
    """
    try:
        file = RatesFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
        plain = [(i, raw) for i, raw in enumerate(file.cells) if raw.get("method") == "sgd"]
    except FileNotFoundError as error:
        raise RatesError(f"{path}: no such file; a benchmark on a GPU writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RatesError(f"{path}: not readable as JSON: {error}") from error
    except ValidationError as error:
        raise RatesError(describe_errors(path, (), error)) from error
    if not plain:
        raise RatesError(f"{path}: none of its {len(file.cells)} cells is of the method sgd, whose rates are needed")
    cells = []
    for i, raw in plain:
        try:
            cells.append(BenchmarkCell.model_validate(raw))
        except ValidationError as error:
            raise RatesError(describe_errors(path, ("cells", i), error)) from error
    about = f"measured by `{file.command}` at commit {file.commit} (`{path.as_posix()}`)"
    unit: Literal["GPU", "CPU"] = "GPU" if file.device.type == "cuda" else "CPU"
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    return [
        DeviceRates(f"{file.device.name}, {precision}", "measured", about, cells_of_precision, unit)
        for precision in precisions
        if (cells_of_precision := tuple(cell for cell in cells if cell.precision == precision))
    ]


def describe_errors(path: Path, location: Sequence[str | int], error: ValidationError) -> str:
    """Return a line for each wrong value: the file, where the value is in it, and what is wrong with it.

    Args:
        path: the file.
        location: where in the file the validated part is.
        error: what pydantic found.
    """
    lines = []
    for each in error.errors(include_url=False):
        where = ".".join(map(str, [*location, *each["loc"]]))
        got = "" if each["type"] == "missing" or not each["loc"] else f" (got {each['input']!r})"
        lines.append(f"{path}: {where + ': ' if where else ''}{each['msg']}{got}")
    return "\n".join(lines)
