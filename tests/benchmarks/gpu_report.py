"""The sizes of a measurement on a GPU, and the report of its results."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.compile_modes import MODES
from tests.benchmarks.epochs import TrainingSetup
from tests.benchmarks.timing import BoundChecker, Measurement


@dataclass(frozen=True)
class Sizes:
    """The sizes of a measurement.

    Attributes:
        large: setup of the large network, WRN-28-10.
        small: setup of the small network, cResNet20.
        loops: further setups whose loop is compared with a bare loop.
        methods: setup on which methods are compared.
        modes: of torch.compile.
        rounds: number of rounds of each comparison.
        packed: numbers of processes that share the device.
        packed_modes: modes of torch.compile for these processes.
        seconds: for which these processes train.
        side: number of rows of the matrices that measure the peak speed; 0 for a size that keeps the device busy.
        predicted: the number of images of a large minibatch of predictions.
    """

    large: TrainingSetup
    small: TrainingSetup
    loops: list[TrainingSetup]
    methods: TrainingSetup
    modes: tuple[str, ...] = MODES
    rounds: int = 7
    packed: tuple[int, ...] = (1, 4, 8)
    packed_modes: tuple[str, ...] = ("off", "reduce-overhead")
    seconds: float = 6.0
    side: int = 0
    predicted: int = 1024


def full_sizes() -> Sizes:
    """Return the sizes of a measurement, with epochs of some tenths of a second."""
    large = TrainingSetup("wrn-28-10", minibatches=20, device="cuda", precision="bfloat16")
    small = TrainingSetup("cresnet20", minibatches=100, device="cuda", precision="bfloat16")
    loops = [
        small,
        replace(small, precision="float32"),
        TrainingSetup("lenet5", minibatches=200, device="cuda"),
        TrainingSetup("wrn-16-4", minibatches=50, device="cuda", precision="bfloat16"),
    ]
    return Sizes(large, small, loops, methods=replace(small, minibatches=40))


def rehearsal_sizes() -> Sizes:
    """Return sizes that take less than a minute on a CPU."""
    large = TrainingSetup("wrn-10-1", batch_size=8, minibatches=3, channels=1, side=8, precision="bfloat16")
    small = replace(large, precision="float32")
    loops = [replace(small, architecture="lenet5")]
    modes = ("off",)
    return Sizes(
        large, small, loops, small, modes, 3, packed=(1, 2), packed_modes=modes, seconds=0.5, side=256, predicted=32
    )


@dataclass
class Report:
    """The results so far.

    Attributes:
        peaks: peak speed of the device for each precision, in operations a second.
        part: name of the part that is being measured.
        rows: name, value, bound and details of each figure.
        cells: speeds, in the form that `harness.planning.scaling_forecast` reads.
        checker: compares figures with bounds.
    """

    peaks: dict[str, float]
    part: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    checker: BoundChecker = field(default_factory=BoundChecker)

    def add(self, name: str, measured: Measurement, **found: object) -> None:
        """Add and print a row."""
        self.rows.append({"part": self.part, "name": name, **measured.describe(), **found})
        print(f"{name:66} {self.checker(name, measured)}  {found or ''}", flush=True)

    def add_cell(self, row: dict[str, Any], **found: object) -> None:
        """Add a speed."""
        self.cells.append({"part": self.part, **row, **found})


def other_parts(path: Path, parts: Sequence[str], made: dict[str, Any]) -> dict[str, Any]:
    """Read the results of earlier commands for other parts than those about to be measured.

    Args:
        path: of the file of results. Without a file there are no earlier results.
        parts: the parts that are about to be measured.
        made: the device and commit of this command. Those of the file must be the same.

    Returns:
        "parts", "rows" and "cells" of the file.

    Raises:
        SystemExit: if earlier results are from another device or commit; or if either the file or this command is a
            rehearsal and the other is not, even if no earlier result would be kept.
    """
    if not path.exists():
        return {"parts": {}, "rows": [], "cells": []}
    read = json.loads(path.read_text())
    others = {part: about for part, about in read.get("parts", {}).items() if part not in parts}
    differs = [name for name, value in made.items() if read.get(name) != value]
    if "rehearsal" in differs:
        raise SystemExit(
            f"{path}: a measurement and a rehearsal do not write to the same file; move it away, or give "
            "another --output"
        )
    if others and differs:
        raise SystemExit(
            f"{path}: its parts {', '.join(others)} were measured with another {' and '.join(differs)}; move it away, "
            "or give another --output"
        )
    kept = {key: [row for row in read.get(key, []) if row.get("part") in others] for key in ("rows", "cells")}
    return {"parts": others, **kept}
