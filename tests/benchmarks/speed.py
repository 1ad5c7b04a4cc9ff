"""Time the harness: against a bare PyTorch loop, methods against plain training, fast paths against plain ones.

Everything is timed in turns within a process, so that ratios say whether something became slower; rates say what this
machine can do. Each row's rounds are those of two processes, which differ by more than rounds of one do, and last as
many seconds on any machine; epochs are as short as can be, because many short rounds scatter less than few long ones.
The bare loop is also timed against itself: what that differs from one is noise. A ratio that does not keep its bound
gets twice as many rounds more; its median is then that of all of them. Prints a table and writes all of it as JSON.
`make benchmark` runs it on the CPU, in less than five minutes on two cores; what needs a GPU is in
`tests.benchmarks.gpu`.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from harness.fusion import CPU_PIXELS
from harness.memory import keep_freed_memory
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
    Cell("wrn-28-10", minibatches=1, batch_size=4): 7,  # 128 pictures take half a minute on two cores
}
"""Networks, and the seconds for which the rounds of each last in a process."""
LEAST = 2
"""Rounds in a process, at least."""
LOOP = 1.02
"""How many times as long as the bare loop the harness's may take."""
ON = Cell("cresnet20", minibatches=2, batch_size=32)
"""What methods are compared on: a cycle of two members. One of ten costs the same for each update, less at its end."""
LARGER = replace(ON, batch_size=64)
"""What subspaces are compared on: what they do for each update, whatever the size of a minibatch, is bounded at 64."""
LONGER = replace(LARGER, minibatches=4)
"""What averages are compared on, which collect once in an epoch, of hundreds of minibatches elsewhere."""
COMPARED = {
    "dropout": (ON, None),
    "late_phase_bn(K=2, start=500)": (ON, 1.03),
    "late_phase_rank1(K=2, start=500)": (ON, 1.15),
    "late_phase_hypernet(K=2, start=500)": (ON, None),
    "batch_ensemble(K=4)": (ON, None),
    "line": (LARGER, 1.15),
    "curve": (LARGER, 1.15),
    "swa(start=500)": (LONGER, 1.02),
    "swag(start=500)": (LONGER, 1.02),
}
"""Methods, what each is compared on, and how many times as long as plain training it may take."""
BOUNDED, UNBOUNDED = 5, 2
"""Seconds for which a method's rounds last in a process, where there is a bound and where there is none."""
SMALL = Cell("wrn-10-1", minibatches=10, batch_size=32, channels=1, side=8)
"""A network and the size of pictures of the study `digits`, small enough to be fused on a CPU."""
FUSE_UP_TO = CPU_PIXELS // SMALL.side**2
FUSED = 1.2
"""How many times as fast fused members must be there."""
FUSING = 1.5
"""Seconds for which rounds of fused members last in a process."""
SPARE = 80.0
"""Seconds for more rounds of what misses its bound; none are begun that last longer, so that all takes five minutes."""


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


def process() -> Pool:
    """Start a process that keeps freed memory as the harness's do, and has trained nothing so far."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.cells"])  # once: each process would take seconds to import torch
    return context.Pool(1, initializer=keep_freed_memory)


def apart(function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
    """Call a function in a process of its own."""
    with process() as pool:
        return pool.apply(function, arguments)


@dataclass
class Table:
    """The rows timed so far, each printed when it is known.

    Attributes:
        other: the process of each row's second rounds.
        rows: of the JSON file.
        judge: compares with bounds.
        spent: seconds that more rounds took.
    """

    other: Pool
    rows: list[dict[str, Any]] = field(default_factory=list)
    judge: Judge = field(default_factory=Judge)
    spent: float = 0.0

    def add(
        self,
        key: str,
        row: Callable[[Timing], dict[str, Any]],
        first: Callable[[Callable[..., Timing], tuple[object, ...]], Timing],
        time_it: Callable[..., Timing],
        *arguments: object,
    ) -> None:
        """Time in two processes, again where a bound does not hold, sum up and print.

        Args:
            key: of the figure that may have a bound.
            row: sums up.
            first: calls a function in the process of the first rounds.
            time_it: gives the rounds of a process.
            arguments: of it.
        """

        def twice() -> Timing:
            return first(time_it, arguments) + self.other.apply(time_it, arguments)

        start = time.monotonic()
        timing = twice()
        done = time.monotonic()
        if self.spent + MORE * (done - start) < SPARE:
            timing = with_more_rounds(timing, twice, lambda timing: row(timing)[key].kept)
            self.spent += time.monotonic() - done
        made = row(timing)
        self.rows.append(made)
        line = f"{made['architecture']:10} {made['batch_size']:5} {made['method']:34} "
        line += f"{made['images_per_second']:8,.0f} {made['ms_per_update']:9,.1f} "
        if "of_matrix_peak" in made:
            line += f"{made['of_matrix_peak']:5.0%} {made['peak_memory_bytes'] / 1e9:5.2f} GB "
        print(line, self.judge(f"{made['architecture']}, {made['method']}, {key}", made[key]), flush=True)


def main() -> None:
    """Print ratios beside their bounds, and write the JSON file; fail if a bound does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/speed-cpu.json"), help="Default: %(default)s")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") == "1":
        print("warning: OMP_NUM_THREADS=1 leaves all but one core idle")
    start = time.monotonic()
    with process() as one, process() as other:
        peak = other.apply(matrix_peak, ("cpu", "float32"))
        print(f"the most in a large product or convolution, float32: {peak / 1e9:.0f} GFLOP/s")
        print("at the end of a line: ratios of seconds, median [quartiles], and the bound")
        print(f"\n{'network':10} batch {'method':34} images/s ms/update")
        table = Table(other)
        print("the bare loop / itself; then plain training / bare loop, with the share of the peak, and memory")
        table.add("over_itself", partial(control_row, CONTROL), one.apply, time_control, CONTROL, CELLS[CONTROL])
        for cell, lasting in CELLS.items():
            row = partial(loop_row, cell, peak=peak, bound=LOOP)
            table.add("over_bare_loop", row, apart, time_loop, cell, LEAST, lasting)
        print("methods / plain training")
        for written, (cell, bound) in COMPARED.items():
            lasting = BOUNDED if bound else UNBOUNDED
            row = partial(method_row, cell, written, bound=bound)
            table.add("over_sgd", row, one.apply, time_method, cell, written, LEAST, lasting)
        print(f"members one by one / as one batch, {SMALL.side} x {SMALL.side} pixels")
        for written in ("late_phase_bn(K=10, start=500)", "late_phase_rank1(K=10, start=500)"):
            table.add("sequential_over_fused", partial(fusing_row, written), one.apply, time_fusing, written)
    write_results(options.output, "cpu", {"matrix_peak": {"float32": peak}, "cells": table.rows})
    print(f"measured in {(time.monotonic() - start) / 60:.1f} minutes")
    table.judge.end()


PAIRS = {
    "harness / bare loop": (bare_epoch, harness_epoch),
    "late_phase_bn(K=10) / sgd": (harness_epoch, partial(harness_epoch, make=build("late_phase_bn(K=10, start=500)"))),
}
"""What tests compare: the second of each pair with the first."""

if __name__ == "__main__":
    main()
