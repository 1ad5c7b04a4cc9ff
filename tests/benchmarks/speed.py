"""Time the harness: against a bare PyTorch loop, methods against plain training, fast paths against plain ones.

Prints a table and writes all of it as JSON. Everything is measured in turns within one process a network, so that
ratios say whether something became slower; rates say what this machine can do. `make benchmark` runs it on the CPU, in
less than five minutes on two cores; the rows that need a GPU are in `tests.benchmarks.gpu`.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.expression import parse
from harness.fusion import CPU_PIXELS
from harness.memory import keep_freed_memory
from harness.provenance import commit
from methods import METHODS, MakeMethod
from tests.benchmarks.cells import Cell, bare_epoch, describe_device, harness_epoch, in_turns, matrix_peak, ratio

CELLS = [
    Cell("lenet5", minibatches=20),
    Cell("cresnet20", minibatches=3),
    Cell("wrn-16-4", minibatches=1),
    Cell("wrn-28-10", minibatches=1, batch_size=8),  # an update of 128 pictures takes half a minute on two cores
]
ROUNDS = {"lenet5": 15, "cresnet20": 9, "wrn-16-4": 5, "wrn-28-10": 5}
LOOP = 1.02
"""How many times as long as the bare loop the harness's may take."""
ON = Cell("cresnet20", minibatches=10, batch_size=32)
"""What methods are compared on: ten minibatches are a cycle of ten members."""
METHODS_TIMED = {
    "dropout": None,
    "late_phase_bn(K=10, start=500)": 1.03,
    "late_phase_rank1(K=10, start=500)": 1.15,
    "late_phase_hypernet(K=10, start=500)": None,
    "batch_ensemble(K=4)": None,
    "line": 1.15,
    "curve": 1.15,
    "swa(start=500)": 1.02,
    "swag(start=500)": 1.02,
    "snapshot": None,
    "fge": None,
}
"""Methods, and how many times as long as plain training each may take; collecting is part of an epoch."""
SMALL = Cell("wrn-10-1", minibatches=10, batch_size=32, channels=1, side=8)
"""The study `digits`' own network and data, small enough to be fused on a CPU."""


def build(written: str) -> MakeMethod:
    """Make a method of its expression."""
    spec, errors = parse(written, METHODS)
    if spec is None:
        raise ValueError("; ".join(errors))
    return spec.make(METHODS)


def time_cell(cell: Cell) -> dict[str, Any]:
    """Time plain training by the harness and by the bare loop."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epochs = {"harness": harness_epoch(cell), "bare": bare_epoch(cell)}
    times = in_turns(epochs, cell.device, ROUNDS[cell.architecture])
    taken = statistics.median(times["harness"])
    rate = cell.pictures / taken
    return {
        **describe(cell, "sgd"),
        "images_per_second": rate,
        "ms_per_update": 1e3 * taken / cell.minibatches,
        "of_matrix_peak": rate * cell.operations / matrix_peak(cell.device, cell.precision),
        "peak_memory_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "over_bare_loop": ratio(times, "harness", "bare"),
    }


def time_method(written: str) -> dict[str, Any]:
    """Time a method against plain training."""
    epochs = {written: harness_epoch(ON, build(written)), "sgd": harness_epoch(ON)}
    times = in_turns(epochs, ON.device, rounds=5, warm_up=1)
    rate = ON.pictures / statistics.median(times[written])
    return {**describe(ON, written), "images_per_second": rate, "over_sgd": ratio(times, written, "sgd")}


def time_fusing(written: str) -> dict[str, Any]:
    """Time members one by one against members as one batch, as the harness fuses them on a CPU."""
    fused = replace(SMALL, fuse_up_to=CPU_PIXELS // SMALL.side**2)
    epochs = {"sequential": harness_epoch(SMALL, build(written)), "fused": harness_epoch(fused, build(written))}
    times = in_turns(epochs, SMALL.device, rounds=21)
    return {**describe(SMALL, written), "sequential_over_fused": ratio(times, "sequential", "fused")}


def describe(cell: Cell, method: str) -> dict[str, Any]:
    """Say what was timed."""
    return {
        "architecture": cell.architecture,
        "image": [cell.channels, cell.side, cell.side],
        "classes": 10,
        "batch_size": cell.batch_size,
        "precision": cell.precision,
        "method": method,
    }


def apart(function: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Call a function in a process of its own, whose memory nothing else has used."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=keep_freed_memory) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    """Print the table, ratios beside their bounds, and write the JSON file; fail if a bound does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/speed-cpu.json"), help="Default: %(default)s")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") == "1":
        print("warning: OMP_NUM_THREADS=1 leaves all but one core idle")
    cells: list[dict[str, Any]] = []
    bad: list[str] = []

    def judge(what: str, value: float, bound: float | None, *, least: bool = False) -> str:
        if bound is None:
            return f"{value:6.3f}"
        holds = value >= bound if least else value <= bound
        if not holds:
            bad.append(f"{what}: {value:.3f}, bound {bound}")
        return f"{value:6.3f} {'>=' if least else '<='} {bound:.2f}"

    print(
        f"{'plain training':14} {'batch':>5} {'images/s':>9} {'ms/update':>10} {'of peak':>8} {'memory':>8}  / bare loop"
    )
    for cell in CELLS:
        row = apart(time_cell, cell)
        cells.append(row)
        over = judge(f"{cell.architecture} / bare loop", row["over_bare_loop"], LOOP)
        print(
            f"{cell.architecture:14} {cell.batch_size:5} {row['images_per_second']:9,.0f} {row['ms_per_update']:10.1f} "
            f"{row['of_matrix_peak']:8.0%} {row['peak_memory_bytes'] / 1e9:5.2f} GB  {over}",
            flush=True,
        )
    print(f"\n{'method':40} images/s  / plain training   ({ON.architecture}, batch {ON.batch_size})")
    for written, bound in METHODS_TIMED.items():
        row = apart(time_method, written)
        cells.append(row)
        print(f"{written:40} {row['images_per_second']:8,.0f}  {judge(written, row['over_sgd'], bound)}", flush=True)
    print(f"\n{'members one by one / as one batch':40} ({SMALL.architecture}, {SMALL.side} x {SMALL.side} pixels)")
    for written in ("late_phase_bn(K=10, start=500)", "late_phase_rank1(K=10, start=500)"):
        row = apart(time_fusing, written)
        cells.append(row)
        print(f"{written:40} {judge('fused ' + written, row['sequential_over_fused'], 1.2, least=True)}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "device": describe_device("cpu"),
        "command": shlex.join(["python", "-m", "tests.benchmarks.speed", *sys.argv[1:]]),
        "commit": commit(),
        "cells": cells,
    }
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten to {options.output}")
    if bad:
        print("not kept: " + "; ".join(bad))
        sys.exit(1)


PAIRS = {
    "harness / bare loop": (bare_epoch, harness_epoch),
    "late_phase_bn(K=10) / sgd": (harness_epoch, partial(harness_epoch, make=build("late_phase_bn(K=10, start=500)"))),
}
"""What tests compare: the second of each pair with the first."""

if __name__ == "__main__":
    main()
