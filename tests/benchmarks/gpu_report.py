"""What is measured on a GPU, at full size or tiny, and the rows that come of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.cells import Cell
from tests.benchmarks.comparison import Judge, Measured
from tests.benchmarks.modes import MODES


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        large: the WRN-28-10.
        small: the cResNet20.
        loops: other cells whose loop is compared with a bare one.
        methods: what methods are compared on.
        modes: of compiling.
        rounds: of each comparison.
        packed: numbers of processes that share the device.
        packed_modes: of compiling, which they are tried in.
        seconds: for which they train.
        side: of the matrices whose product is the peak; 0 for what keeps the device busy.
    """

    large: Cell
    small: Cell
    loops: list[Cell]
    methods: Cell
    modes: tuple[str, ...] = MODES
    rounds: int = 7
    packed: tuple[int, ...] = (1, 4, 8)
    packed_modes: tuple[str, ...] = ("off", "reduce-overhead")
    seconds: float = 6.0
    side: int = 0


def full() -> Sizes:
    """Give the sizes of a measurement: epochs of some tenths of a second."""
    large = Cell("wrn-28-10", minibatches=20, device="cuda", precision="bfloat16")
    small = Cell("cresnet20", minibatches=100, device="cuda", precision="bfloat16")
    loops = [
        small,
        replace(small, precision="float32"),
        Cell("lenet5", minibatches=200, device="cuda"),
        Cell("wrn-16-4", minibatches=50, device="cuda", precision="bfloat16"),
    ]
    return Sizes(large, small, loops, methods=replace(small, minibatches=40))


def rehearsed() -> Sizes:
    """Give sizes that take a CPU less than a minute."""
    large = Cell("wrn-10-1", batch_size=16, channels=1, side=8, precision="bfloat16")
    small = replace(large, batch_size=32, precision="float32")
    loops = [replace(small, architecture="lenet5")]
    modes = ("off",)
    return Sizes(large, small, loops, small, modes, 3, packed=(1, 2), packed_modes=modes, seconds=0.5, side=256)


@dataclass
class Report:
    """The rows measured so far.

    Attributes:
        peaks: operations a second that the device does at most, in each precision.
        part: what is being measured.
        rows: name, value, bound and what else was found.
        cells: rates, as `harness.planning.scaling_forecast` reads them.
        judge: compares with bounds.
    """

    peaks: dict[str, float]
    part: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    judge: Judge = field(default_factory=Judge)

    def add(self, name: str, measured: Measured, **found: object) -> None:
        """Note and print a row."""
        self.rows.append({"part": self.part, "name": name, **measured.describe(), **found})
        print(f"{name:66} {self.judge(name, measured)}  {found or ''}", flush=True)

    def add_cell(self, row: dict[str, Any], **found: object) -> None:
        """Note a rate."""
        self.cells.append({"part": self.part, **row, **found})


def other_parts(path: Path, parts: Sequence[str], made: dict[str, Any]) -> dict[str, Any]:
    """Read what an earlier command measured of other parts than these.

    Args:
        path: of its file; where there is none, nothing was measured.
        parts: those that are about to be measured.
        made: where that is, and from which commit, which must be the same.

    Returns:
        "parts", "rows" and "cells" of a file.

    Raises:
        SystemExit: if the file is from elsewhere; or if one of both is a rehearsal, even where no part would be kept.
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
