"""Measures the speed of the harness on a CPU: its loop, its methods, and fused late-phase members.

The loop is compared with a bare PyTorch loop, methods with plain training, and fused with sequential members. Compared
kinds are timed in turns in the same process, so their ratio tells whether one became slower. Speeds tell what this
machine can do. The rounds of each row come from two processes, because processes differ by more than rounds of one
process. Rounds fill a fixed time with short epochs, because many short rounds scatter less than few long ones. The
bare loop is also timed against itself: the deviation of that ratio from one is noise. A ratio that violates its bound
is measured for twice as long again, if time is left at the end. Its median is then that of all rounds.

The command prints a table and writes it as JSON. `make benchmark` runs it, in less than five minutes on two cores.
Measurements on a GPU are in `tests.benchmarks.gpu`.
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
from tests.benchmarks.device import matrix_peak, write_results
from tests.benchmarks.epochs import (
    TrainingSetup,
    bare_epoch,
    build,
    harness_epoch,
    loop_row,
    method_row,
    speed_of,
    time_loop,
    time_method,
)
from tests.benchmarks.timing import (
    EXTRA_MEASUREMENTS,
    BoundChecker,
    Measurement,
    Timing,
    time_in_turns,
    with_more_rounds,
)

CONTROL = TrainingSetup("lenet5", minibatches=5)
"""The setup whose bare loop is also timed against itself."""
LOOP_SETUPS = {
    CONTROL: 4,
    TrainingSetup("cresnet20", minibatches=1): 5,
    TrainingSetup("wrn-16-4", minibatches=1): 7,
    TrainingSetup("wrn-28-10", minibatches=1, batch_size=4): 7,  # 128 images take half a minute on two cores
}
"""Setups whose loop is compared with a bare loop → seconds of rounds in each process."""
MIN_ROUNDS = 2
"""Minimum number of rounds in a process."""
MAX_LOOP_RATIO = 1.02
"""Maximum ratio of the time of the harness's loop to that of the bare loop."""
ON = TrainingSetup("cresnet20", minibatches=2, batch_size=32)
"""The setup on which methods are compared, unless another one is given."""
CYCLE = replace(ON, minibatches=4)
"""The setup for late-phase methods: a cycle of four members. Updates in a cycle of ten cost no more."""
LARGER = replace(ON, batch_size=64)
"""The setup for subspaces. Their cost of an update does not depend on the minibatch; its bound is for size 64."""
LONGER = replace(LARGER, minibatches=4)
"""The setup for averages of weights. They collect once an epoch; real epochs have hundreds of minibatches."""
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
"""Method → its setup, its maximum time relative to plain training, and the seconds of its rounds in each process.

Methods close to their bound have more seconds.
"""
SMALL = TrainingSetup("wrn-10-1", minibatches=10, batch_size=32, channels=1, side=8)
"""A setup with images of the size of the study `digits`, small enough for fused members on a CPU."""
FUSE_UP_TO = CPU_PIXELS // SMALL.side**2
MIN_FUSED_GAIN = 1.2
"""Minimum ratio of the time of sequential members to that of fused members."""
FUSING_SECONDS = 1.5
"""Seconds of rounds with fused members in each process."""
TIME_LIMIT = 280.0
"""Seconds after which no further rounds may end, so that the whole measurement takes less than five minutes."""
PRELOADED = ["tests.benchmarks.epochs", "torch._dynamo"]
"""Modules that are imported once for all processes. Optimizers import the second one when they are made."""
Result = TypeVar("Result")


def time_control(setup: TrainingSetup, lasting: float) -> Timing:
    """Time the bare loop against itself."""
    epochs = {"bare": bare_epoch(setup), "other": bare_epoch(setup)}
    return time_in_turns(epochs, setup.device, MIN_ROUNDS, warm_up=1, lasting=lasting)


def time_fusing(expression: str) -> Timing:
    """Time members one by one ("sequential") and as one batch ("fused"), with the limit of fusing on a CPU."""
    fused = replace(SMALL, fuse_up_to=FUSE_UP_TO)
    epochs = {"sequential": harness_epoch(SMALL, build(expression)), "fused": harness_epoch(fused, build(expression))}
    return time_in_turns(epochs, SMALL.device, MIN_ROUNDS, lasting=FUSING_SECONDS)


def control_row(setup: TrainingSetup, timing: Timing) -> dict[str, Any]:
    """Summarize the timing of `time_control`."""
    over = Measurement.of(timing.ratios("other", "bare"))
    return {**setup.describe("bare loop"), **speed_of(setup, timing.median("bare")), "over_itself": over}


def fusing_row(expression: str, timing: Timing) -> dict[str, Any]:
    """Summarize the timing of `time_fusing`."""
    setup = replace(SMALL, fuse_up_to=FUSE_UP_TO)
    gain = Measurement.of(timing.ratios("sequential", "fused"), MIN_FUSED_GAIN, at_least=True)
    return {**setup.describe(expression), **speed_of(setup, timing.median("fused")), "sequential_over_fused": gain}


def call_in_new_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a new process that keeps freed memory, as workers of the harness do."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(PRELOADED)
    with context.Pool(1, initializer=keep_freed_memory) as pool:
        return pool.apply(function, arguments)


@dataclass
class Row:
    """A row of the table.

    Attributes:
        key: of the figure that may have a bound, in the summary.
        summarize: makes the summary of all rounds for the JSON file.
        measure: returns the rounds of one process.
        arguments: of `measure`.
        timing: all rounds so far.
        seconds: that the first rounds took.
    """

    key: str
    summarize: Callable[[Timing], dict[str, Any]]
    measure: Callable[..., Timing]
    arguments: tuple[object, ...]
    timing: Timing = field(init=False)
    seconds: float = field(init=False)

    def rounds(self) -> Timing:
        """Measure rounds in two processes."""
        return call_in_new_process(self.measure, *self.arguments) + call_in_new_process(self.measure, *self.arguments)

    def measure_first(self) -> None:
        """Measure the first rounds."""
        start = time.monotonic()
        self.timing = self.rounds()
        self.seconds = time.monotonic() - start

    def measure_more(self) -> None:
        """Measure more rounds if the bound does not hold."""
        self.timing = with_more_rounds(self.timing, self.rounds, lambda timing: self.summarize(timing)[self.key].kept)

    @property
    def summary(self) -> dict[str, Any]:
        """The row for the JSON file."""
        return self.summarize(self.timing)

    @property
    def figure(self) -> Measurement:
        """The figure that may have a bound."""
        measured: Measurement = self.summary[self.key]
        return measured

    @property
    def name(self) -> str:
        """The architecture, the method and the figure."""
        return f"{self.summary['architecture']}, {self.summary['method']}, {self.key}"

    def __str__(self) -> str:
        """Return the row as a line of text."""
        summary = self.summary
        line = f"{summary['architecture']:10} {summary['batch_size']:5} {summary['method']:34} "
        line += f"{summary['images_per_second']:8,.0f} {summary['ms_per_update']:9,.1f} "
        if "of_matrix_peak" in summary:
            line += f"{summary['of_matrix_peak']:5.0%} {summary['peak_memory_bytes'] / 1e9:5.2f} GB "
        return f"{line} {self.figure}"


def make_rows(peak: float) -> dict[str, list[Row]]:
    """Return the rows to measure, by heading.

    Args:
        peak: peak speed of the CPU, in operations a second.
    """
    control = Row("over_itself", partial(control_row, CONTROL), time_control, (CONTROL, LOOP_SETUPS[CONTROL]))
    loops = [
        Row(
            "over_bare_loop",
            partial(loop_row, setup, peak=peak, bound=MAX_LOOP_RATIO),
            time_loop,
            (setup, MIN_ROUNDS, lasting),
        )
        for setup, lasting in LOOP_SETUPS.items()
    ]
    methods = [
        Row(
            "over_sgd",
            partial(method_row, setup, expression, bound=bound),
            time_method,
            (setup, expression, MIN_ROUNDS, lasting),
        )
        for expression, (setup, bound, lasting) in COMPARED.items()
    ]
    fused = [
        Row("sequential_over_fused", partial(fusing_row, expression), time_fusing, (expression,))
        for expression in ("late_phase_bn(K=10, start=500)", "late_phase_rank1(K=10, start=500)")
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
    """Print ratios with their bounds, and write the JSON file. Exit with an error if a bound does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/speed-cpu.json"), help="Default: %(default)s")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") == "1":
        print("warning: OMP_NUM_THREADS=1 leaves all but one core idle")
    start = time.monotonic()
    peak = call_in_new_process(matrix_peak, "cpu", "float32")
    print(f"peak speed in a large matrix product or convolution, float32: {peak / 1e9:.0f} GFLOP/s")
    print("at the end of a line: ratios of seconds, median [quartiles], and the bound")
    print(f"\n{'network':10} batch {'method':34} images/s ms/update")
    rows: list[Row] = []
    for heading, below in make_rows(peak).items():
        print(heading)
        for row in below:
            row.measure_first()
            print(row, flush=True)
        rows += below
    for row in (row for row in rows if row.figure.kept is False):
        if time.monotonic() - start + EXTRA_MEASUREMENTS * row.seconds > TIME_LIMIT:
            print(f"no time is left for more rounds of {row.name}")
            continue
        print("with more rounds:")
        row.measure_more()
        print(row, flush=True)
    write_results(options.output, "cpu", {"matrix_peak": {"float32": peak}, "cells": [row.summary for row in rows]})
    print(f"measured in {(time.monotonic() - start) / 60:.1f} minutes")
    checker = BoundChecker()
    for row in rows:
        checker(row.name, row.figure)
    checker.exit_if_violated()


PAIRS = {
    "harness / bare loop": (bare_epoch, harness_epoch),
    "late_phase_bn(K=10) / sgd": (harness_epoch, partial(harness_epoch, make=build("late_phase_bn(K=10, start=500)"))),
}
"""Pairs for tests. The second of each pair is compared with the first."""

if __name__ == "__main__":
    main()
