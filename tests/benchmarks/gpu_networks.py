"""The two networks of which most is asked on a GPU: the WRN-28-10, and the cResNet20.

Late-phase members are compared with plain training there, as one batch with one by one, and so are their predictions.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from methods import SGD
from tests.benchmarks.cells import Cell, build, harness_epoch, loop_row, rates, time_loop
from tests.benchmarks.comparison import Measured, Timing, in_turns
from tests.benchmarks.modes import Tried, fastest_in_turns, forget, try_modes
from tests.benchmarks.report import Report, Sizes
from tests.benchmarks.speed import LOOP

LATE = "late_phase_bn(K=10, start=500, prediction=members)"
CIFAR = 50_000
"""Images of CIFAR-10's training data."""
ALWAYS = sys.maxsize


def measure_loop(cell: Cell, sizes: Sizes, report: Report) -> None:
    """Compare the harness's loop with a bare one, both as written."""
    row = loop_row(cell, time_loop(cell, sizes.rounds), report.peaks[cell.precision], LOOP)
    forget()
    report.add_cell(row)
    said = {
        "images_per_second": round(row["images_per_second"]),
        "ms_per_update": round(row["ms_per_update"], 2),
        "of_matrix_peak": round(row["of_matrix_peak"], 3),
        "peak_memory_gb": round(row["peak_memory_bytes"] / 1e9, 2),
    }
    report.add(f"loop / bare loop, {cell.architecture} {cell.precision}", row["over_bare_loop"], **said)


def add_fastest(tried: Tried, timing: Timing, report: Report) -> None:
    """Note the rate of plain training ("sgd") in its fastest mode."""
    cell = tried.fastest
    measured = rates(cell, timing.median("sgd"))
    share = measured["images_per_second"] * cell.operations / report.peaks[cell.precision]
    report.add_cell({**cell.describe("sgd"), **measured, "of_matrix_peak": share})


def minutes(cell: Cell, timing: Timing, epochs: int, bound: float) -> Measured:
    """Predict how long plain training takes on CIFAR-10."""
    return Measured.of([epochs * CIFAR / cell.images * taken / 60 for taken in timing.seconds["sgd"]], bound)


def measure_large(sizes: Sizes, report: Report) -> None:
    """Measure the large network: its loop, its rate, and late-phase BatchNorm, each in its fastest mode."""
    cell = sizes.large
    measure_loop(cell, sizes, report)
    plain, late = try_modes(cell, SGD, sizes.modes), try_modes(cell, build(LATE), sizes.modes)
    fused = try_modes(replace(cell, fuse_up_to=ALWAYS), build(LATE), sizes.modes[:2])
    best = min(late, fused, key=lambda tried: tried.seconds)
    timing = fastest_in_turns({"sgd": plain, "late": best}, cell.device, sizes.rounds)
    add_fastest(plain, timing, report)
    name, taken = f"{cell.architecture} {cell.precision}", timing.seconds["sgd"]
    report.add(
        f"{name}, images/s", Measured.of([cell.images / t for t in taken], 9000, least=True), seconds=plain.found
    )
    share = cell.images * cell.operations / report.peaks[cell.precision]
    report.add(f"{name}, share of the measured matrix peak", Measured.of([share / t for t in taken], 0.35, least=True))
    report.add(f"{name}, minutes for 200 epochs of CIFAR-10 (predicted)", minutes(cell, timing, 200, 20))
    report.add(
        f"{name}, late-phase BN / SGD, each in its fastest mode",
        Measured.of(timing.ratios("late", "sgd"), 1.0),
        fused=best is fused,
        seconds=late.found,
        seconds_fused=fused.found,
    )


def measure_small(sizes: Sizes, report: Report) -> None:
    """Measure the small network: the fused cycle, prediction in one pass, and the time of a run."""
    cell, make = sizes.small, build(LATE)
    fused = replace(cell, fuse_up_to=ALWAYS)
    name = f"{cell.architecture} {cell.precision}"
    epochs = {"sequential": harness_epoch(cell, make), "fused": harness_epoch(fused, make)}
    gains = in_turns(epochs, cell.device, sizes.rounds).ratios("sequential", "fused")
    report.add(f"{name}, K = 10: sequential / fused, eager", Measured.of(gains, 3, least=True))
    for size in (cell.batch_size, 1024):
        gain = Measured.of(predicted(cell, size, sizes.rounds).ratios("passes", "one"), 2, least=True)
        report.add(f"{name}, 10 passes / one pass, {size} images predicted", gain)
    del epochs
    forget()
    kinds = {
        "sequential": try_modes(cell, make, sizes.modes),
        "fused": try_modes(fused, make, sizes.modes),
        "sgd": try_modes(cell, SGD, sizes.modes),
    }
    timing = fastest_in_turns(kinds, cell.device, sizes.rounds)
    add_fastest(kinds["sgd"], timing, report)
    report.add(
        f"{name}, K = 10: sequential / fused, each in its fastest mode",
        Measured.of(timing.ratios("sequential", "fused"), 1.5, least=True),
        seconds=kinds["sequential"].found,
        seconds_fused=kinds["fused"].found,
    )
    report.add(
        f"{name}, minutes for 160 epochs of CIFAR-10 (predicted)",
        minutes(cell, timing, 160, 3),
        seconds=kinds["sgd"].found,
    )


@torch.no_grad()
def predicted(cell: Cell, size: int, rounds: int) -> Timing:
    """Time members that predict one by one ("passes") and in one pass ("one")."""
    x = torch.cat([x for x, _ in replace(cell, minibatches=-(-size // cell.batch_size)).data()])[:size]
    method = cell.method(build(LATE)).eval()
    method.epoch = method.start_epoch

    def predict(limit: int) -> Callable[[], None]:
        def run() -> None:
            method.fuse_up_to = limit
            method.predict(x)

        return run

    return in_turns({"passes": predict(0), "one": predict(ALWAYS)}, cell.device, rounds)
