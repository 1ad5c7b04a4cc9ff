"""Measures the two networks with most bounds on a GPU: WRN-28-10 and cResNet20.

The measurements compare late-phase training with plain training, and fused with sequential members, in training and in
prediction.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from methods import SGD
from tests.benchmarks.compile_modes import ModeTimes, free_compiled, time_fastest_in_turns, time_modes
from tests.benchmarks.epochs import TrainingSetup, build, harness_epoch, loop_row, speed_of, time_loop
from tests.benchmarks.gpu_report import Report, Sizes
from tests.benchmarks.speed import MAX_LOOP_RATIO
from tests.benchmarks.timing import Measurement, Timing, time_in_turns

LATE = "late_phase_bn(K=10, start=500, prediction=members)"
CIFAR = 50_000
"""Number of training images in CIFAR-10."""
ALWAYS = sys.maxsize
"""A `fuse_up_to` with which members of every minibatch are fused."""


def measure_loop(setup: TrainingSetup, sizes: Sizes, report: Report) -> None:
    """Compare the loop of the harness with a bare loop, both without torch.compile."""
    row = loop_row(setup, time_loop(setup, sizes.rounds), report.peaks[setup.precision], MAX_LOOP_RATIO)
    free_compiled()
    report.add_cell(row)
    said = {
        "images_per_second": round(row["images_per_second"]),
        "ms_per_update": round(row["ms_per_update"], 2),
        "of_matrix_peak": round(row["of_matrix_peak"], 3),
        "peak_memory_gb": round(row["peak_memory_bytes"] / 1e9, 2),
    }
    report.add(f"loop / bare loop, {setup.architecture} {setup.precision}", row["over_bare_loop"], **said)


def add_fastest(tried: ModeTimes, timing: Timing, report: Report) -> None:
    """Report the speed of plain training ("sgd") in its fastest mode."""
    setup = tried.fastest
    measured = speed_of(setup, timing.median("sgd"))
    share = measured["images_per_second"] * setup.operations / report.peaks[setup.precision]
    report.add_cell({**setup.describe("sgd"), **measured, "of_matrix_peak": share})


def minutes(setup: TrainingSetup, timing: Timing, epochs: int, bound: float) -> Measurement:
    """Predict the minutes of plain training on CIFAR-10, from timed epochs."""
    return Measurement.of([epochs * CIFAR / setup.images * taken / 60 for taken in timing.seconds["sgd"]], bound)


def measure_large(sizes: Sizes, report: Report) -> None:
    """Measure the large network: its loop, its speed, and late-phase BatchNorm in the fastest mode of each."""
    setup = sizes.large
    measure_loop(setup, sizes, report)
    plain, late = time_modes(setup, SGD, sizes.modes), time_modes(setup, build(LATE), sizes.modes)
    fused = time_modes(replace(setup, fuse_up_to=ALWAYS), build(LATE), sizes.modes[:2])
    best = min(late, fused, key=lambda tried: tried.seconds)
    timing = time_fastest_in_turns({"sgd": plain, "late": best}, setup.device, sizes.rounds)
    add_fastest(plain, timing, report)
    name, taken = f"{setup.architecture} {setup.precision}", timing.seconds["sgd"]
    report.add(
        f"{name}, images/s", Measurement.of([setup.images / t for t in taken], 9000, at_least=True), seconds=plain.found
    )
    share = setup.images * setup.operations / report.peaks[setup.precision]
    report.add(
        f"{name}, share of the measured matrix peak", Measurement.of([share / t for t in taken], 0.35, at_least=True)
    )
    report.add(f"{name}, minutes for 200 epochs of CIFAR-10 (predicted)", minutes(setup, timing, 200, 20))
    report.add(
        f"{name}, late-phase BN / SGD, each in its fastest mode",
        Measurement.of(timing.ratios("late", "sgd"), 1.0),
        fused=best is fused,
        seconds=late.found,
        seconds_fused=fused.found,
    )


def measure_small(sizes: Sizes, report: Report) -> None:
    """Measure the small network: fused members in training and prediction, and the time of a run."""
    setup, make = sizes.small, build(LATE)
    fused = replace(setup, fuse_up_to=ALWAYS)
    name = f"{setup.architecture} {setup.precision}"
    epochs = {"sequential": harness_epoch(setup, make), "fused": harness_epoch(fused, make)}
    gains = time_in_turns(epochs, setup.device, sizes.rounds).ratios("sequential", "fused")
    report.add(f"{name}, K = 10: sequential / fused, eager", Measurement.of(gains, 3, at_least=True))
    for size in (setup.batch_size, sizes.predicted):
        gain = Measurement.of(time_prediction(setup, size, sizes.rounds).ratios("passes", "one"), 2, at_least=True)
        report.add(f"{name}, 10 passes / one pass, {size} images predicted", gain)
    del epochs
    free_compiled()
    kinds = {
        "sequential": time_modes(setup, make, sizes.modes),
        "fused": time_modes(fused, make, sizes.modes),
        "sgd": time_modes(setup, SGD, sizes.modes),
    }
    timing = time_fastest_in_turns(kinds, setup.device, sizes.rounds)
    add_fastest(kinds["sgd"], timing, report)
    report.add(
        f"{name}, K = 10: sequential / fused, each in its fastest mode",
        Measurement.of(timing.ratios("sequential", "fused"), 1.5, at_least=True),
        seconds=kinds["sequential"].found,
        seconds_fused=kinds["fused"].found,
    )
    report.add(
        f"{name}, minutes for 160 epochs of CIFAR-10 (predicted)",
        minutes(setup, timing, 160, 3),
        seconds=kinds["sgd"].found,
    )


@torch.no_grad()
def time_prediction(setup: TrainingSetup, size: int, rounds: int) -> Timing:
    """Time the prediction of members one by one ("passes") and in one pass ("one")."""
    x = torch.cat([x for x, _ in replace(setup, minibatches=-(-size // setup.batch_size)).data()])[:size]
    method = setup.method(build(LATE)).eval()
    method.epoch = method.start_epoch

    def predict(limit: int) -> Callable[[], None]:
        def run() -> None:
            method.fuse_up_to = limit
            method.predict(x)

        return run

    return time_in_turns({"passes": predict(0), "one": predict(ALWAYS)}, setup.device, rounds)
