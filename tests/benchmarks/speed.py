"""Time the harness: against a bare PyTorch loop, methods against plain training, fast paths against plain ones.

Everything is timed in turns within a process, so that ratios say whether something became slower; rates say what this
machine can do. Each row's rounds are those of two processes, which differ by more than rounds of one do. There are as
many as some seconds allow: epochs are short, because many short rounds scatter less than few long ones. The bare loop
is also timed against itself: what that differs from one is noise. A ratio that does not keep its bound gets twice as
much time again, if some is left at the end; its median is then that of all rounds. Prints a table and writes all of it
as JSON. `make benchmark` runs it on the CPU, in less than five minutes on two cores; what needs a GPU is in
`tests.benchmarks.gpu`.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness.running.fusing_limit import CPU_PIXELS
from harness.running.worker_process import keep_freed_memory
from tests.benchmarks.cells import (
    Cell,
    bare_epoch,
    build,
    harness_epoch,
    loop_row,
    method_row,
    rates,
    time_loop,
    time_method,
)
from tests.benchmarks.comparison import MORE, Judge, Measured, Timing, in_turns, with_more_rounds
from tests.benchmarks.device import matrix_peak, write_results

CONTROL = Cell("lenet5", minibatches=5)
"""The network whose bare loop is also timed against itself."""
CELLS = {
    CONTROL: 4,
    Cell("cresnet20", minibatches=1): 5,
    Cell("wrn-16-4", minibatches=1): 7,
    Cell("wrn-28-10", minibatches=1, batch_size=4): 7,  # 128 images take half a minute on two cores
}
"""Networks, and the seconds for which the rounds of each last in a process."""
LEAST = 2
"""Rounds in a process, at least."""
LOOP = 1.02
"""How many times as long as the bare loop the harness's may take."""
ON = Cell("cresnet20", minibatches=2, batch_size=32)
"""What methods are compared on."""
CYCLE = replace(ON, minibatches=4)
"""What late-phase methods are compared on: a cycle of four members. Updates in one of ten cost no more."""
LARGER = replace(ON, batch_size=64)
"""What subspaces are compared on: what they do for each update, whatever the size of a minibatch, is bounded at 64."""
LONGER = replace(LARGER, minibatches=4)
"""What averages are compared on, which collect once in an epoch, of hundreds of minibatches elsewhere."""
COMPARED = {
    "dropout": (ON, None, 2),
    "late_phase_bn(K=4, start=500)": (CYCLE, 1.03, 6),
    "late_phase_rank1(K=4, start=500)": (CYCLE, 1.15, 3),
    "late_phase_hypernet(K=4, start=500)": (CYCLE, None, 2),
    "batch_ensemble(K=4)": (ON, None, 2),
    "line": (LARGER, 1.15, 3),
    "curve": (LARGER, 1.15, 3),
    "swa(start=500)": (LONGER, 1.02, 7),
    "swag(start=500)": (LONGER, 1.02, 7),
}
"""Methods, what each is compared on, how many times as long as plain training it may take, and the seconds for which
its rounds last in a process: more where a bound is close."""
SMALL = Cell("wrn-10-1", minibatches=10, batch_size=32, channels=1, side=8)
"""A network and the size of images of the study `digits`, small enough to be fused on a CPU."""
FUSE_UP_TO = CPU_PIXELS // SMALL.side**2
FUSED = 1.2
"""How many times as fast fused members must be there."""
FUSING = 1.5
"""Seconds for which rounds of fused members last in a process."""
END = 280.0
"""Seconds by which the last of more rounds must be expected to end, so that everything takes less than five minutes."""
PRELOADED = ["tests.benchmarks.cells", "torch._dynamo"]
"""What is imported once, for all processes; optimizers import the second one when they are made."""
Result = TypeVar("Result")


def time_control(cell: Cell, lasting: float) -> Timing:
    """Time the bare loop against itself."""
    epochs = {"bare": bare_epoch(cell), "other": bare_epoch(cell)}
    return in_turns(epochs, cell.device, LEAST, warm_up=1, lasting=lasting)


def time_fusing(written: str) -> Timing:
    """Time members one by one ("sequential") against members as one batch ("fused"), as they are fused on a CPU."""
    fused = replace(SMALL, fuse_up_to=FUSE_UP_TO)
    epochs = {"sequential": harness_epoch(SMALL, build(written)), "fused": harness_epoch(fused, build(written))}
    return in_turns(epochs, SMALL.device, LEAST, lasting=FUSING)


def control_row(cell: Cell, timing: Timing) -> dict[str, Any]:
    """Sum up what `time_control` gave."""
    over = Measured.of(timing.ratios("other", "bare"))
    return {**cell.describe("bare loop"), **rates(cell, timing.median("bare")), "over_itself": over}


def fusing_row(written: str, timing: Timing) -> dict[str, Any]:
    """Sum up what `time_fusing` gave."""
    cell = replace(SMALL, fuse_up_to=FUSE_UP_TO)
    gain = Measured.of(timing.ratios("sequential", "fused"), FUSED, least=True)
    return {**cell.describe(written), **rates(cell, timing.median("fused")), "sequential_over_fused": gain}


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process that has trained nothing so far, and keeps freed memory as the harness's do."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(PRELOADED)
    with context.Pool(1, initializer=keep_freed_memory) as pool:
        return pool.apply(function, arguments)


@dataclass
class Row:
    """A line of the table.

    Attributes:
        key: of the figure that may have a bound.
        sum_up: makes what the JSON file says of all rounds.
        time_it: gives the rounds of a process.
        arguments: of it.
        timing: all rounds so far.
        took: seconds for the first ones.
    """

    key: str
    sum_up: Callable[[Timing], dict[str, Any]]
    time_it: Callable[..., Timing]
    arguments: tuple[object, ...]
    timing: Timing = field(init=False)
    took: float = field(init=False)

    def rounds(self) -> Timing:
        """Time in two processes."""
        return apart(self.time_it, *self.arguments) + apart(self.time_it, *self.arguments)

    def begin(self) -> None:
        """Time the first rounds."""
        start = time.monotonic()
        self.timing = self.rounds()
        self.took = time.monotonic() - start

    def go_on(self) -> None:
        """Time more rounds."""
        self.timing = with_more_rounds(self.timing, self.rounds, lambda timing: self.sum_up(timing)[self.key].kept)

    @property
    def made(self) -> dict[str, Any]:
        """What the JSON file says."""
        return self.sum_up(self.timing)

    @property
    def figure(self) -> Measured:
        """What may have a bound."""
        measured: Measured = self.made[self.key]
        return measured

    @property
    def name(self) -> str:
        """What is timed."""
        return f"{self.made['architecture']}, {self.made['method']}, {self.key}"

    def __str__(self) -> str:
        """Write the line."""
        made = self.made
        line = f"{made['architecture']:10} {made['batch_size']:5} {made['method']:34} "
        line += f"{made['images_per_second']:8,.0f} {made['ms_per_update']:9,.1f} "
        if "of_matrix_peak" in made:
            line += f"{made['of_matrix_peak']:5.0%} {made['peak_memory_bytes'] / 1e9:5.2f} GB "
        return f"{line} {self.figure}"


def sections(peak: float) -> dict[str, list[Row]]:
    """Say what is timed, below headings, on a CPU that does so many operations a second at most."""
    control = Row("over_itself", partial(control_row, CONTROL), time_control, (CONTROL, CELLS[CONTROL]))
    loops = [
        Row("over_bare_loop", partial(loop_row, cell, peak=peak, bound=LOOP), time_loop, (cell, LEAST, lasting))
        for cell, lasting in CELLS.items()
    ]
    methods = [
        Row(
            "over_sgd",
            partial(method_row, cell, written, bound=bound),
            time_method,
            (cell, written, LEAST, lasting),
        )
        for written, (cell, bound, lasting) in COMPARED.items()
    ]
    fused = [
        Row("sequential_over_fused", partial(fusing_row, written), time_fusing, (written,))
        for written in ("late_phase_bn(K=10, start=500)", "late_phase_rank1(K=10, start=500)")
    ]
    return {
        "the bare loop / itself; then plain training / bare loop, with the share of the peak, and memory": [
            control,
            *loops,
        ],
        "methods / plain training": methods,
        f"members one by one / as one batch, {SMALL.side} x {SMALL.side} pixels": fused,
    }


def main() -> None:
    """Print ratios beside their bounds, and write the JSON file; fail if a bound does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/speed-cpu.json"), help="Default: %(default)s")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") == "1":
        print("warning: OMP_NUM_THREADS=1 leaves all but one core idle")
    start = time.monotonic()
    peak = apart(matrix_peak, "cpu", "float32")
    print(f"the most in a large product or convolution, float32: {peak / 1e9:.0f} GFLOP/s")
    print("at the end of a line: ratios of seconds, median [quartiles], and the bound")
    print(f"\n{'network':10} batch {'method':34} images/s ms/update")
    rows: list[Row] = []
    for heading, below in sections(peak).items():
        print(heading)
        for row in below:
            row.begin()
            print(row, flush=True)
        rows += below
    for row in (row for row in rows if row.figure.kept is False):
        if time.monotonic() - start + MORE * row.took > END:
            print(f"no time is left for more rounds of {row.name}")
            continue
        print("with more rounds:")
        row.go_on()
        print(row, flush=True)
    write_results(options.output, "cpu", {"matrix_peak": {"float32": peak}, "cells": [row.made for row in rows]})
    print(f"measured in {(time.monotonic() - start) / 60:.1f} minutes")
    judge = Judge()
    for row in rows:
        judge(row.name, row.figure)
    judge.end()


PAIRS = {
    "harness / bare loop": (bare_epoch, harness_epoch),
    "late_phase_bn(K=10) / sgd": (harness_epoch, partial(harness_epoch, make=build("late_phase_bn(K=10, start=500)"))),
}
"""What tests compare: the second of each pair with the first."""

if __name__ == "__main__":
    main()
