"""Measure on a GPU all that is asked of the harness's speed there, in less than ten minutes.

Every row is a figure beside its bound; each mode of compiling is tried where it may be the fastest one, and a mode that
fails is named with its reason. All is written as JSON, from which `python -m harness.scaling --rates FILE` predicts
hours. `--rehearse` does the same at a tiny size on the CPU, which shows that the script runs and nothing else.

    python -m tests.benchmarks.gpu --output results/speed-gpu.json
"""

import argparse
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from methods import SGD, MakeMethod
from tests.benchmarks.cells import (
    Cell,
    Judge,
    bare_epoch,
    build,
    harness_epoch,
    in_turns,
    matrix_peak,
    ratio,
    seconds,
    write_results,
)

MODES = ("off", "default", "reduce-overhead")
LATE = "late_phase_bn(K=10, start=500, prediction=members)"
CIFAR, K = 50_000, 10
READY = "ready"
ALWAYS = sys.maxsize


@dataclass
class Sizes:
    """What is measured: at full size, or tiny in a rehearsal.

    Attributes:
        large: the WRN-28-10.
        small: the cResNet20.
        loops: cells whose loop is compared with a bare one.
        modes: of compiling.
        rounds: of each comparison.
        packed: numbers of processes that share the device.
        seconds: for which they train.
    """

    large: Cell
    small: Cell
    loops: list[Cell]
    modes: tuple[str, ...]
    rounds: int
    packed: tuple[int, ...]
    seconds: float


def full() -> Sizes:
    """Give the sizes of a measurement."""
    large = Cell("wrn-28-10", minibatches=20, device="cuda", precision="bfloat16")
    small = Cell("cresnet20", minibatches=100, device="cuda", precision="bfloat16")
    loops = [
        replace(small, precision="float32"),
        Cell("lenet5", minibatches=200, device="cuda"),
        Cell("wrn-16-4", minibatches=50, device="cuda", precision="bfloat16"),
    ]
    return Sizes(large, small, loops, MODES, rounds=7, packed=(1, 2, 4, 8), seconds=10.0)


def rehearsed() -> Sizes:
    """Give sizes that take a CPU a minute."""
    large = Cell("wrn-10-1", minibatches=K, batch_size=16, channels=1, side=8, precision="bfloat16")
    small = replace(large, architecture="lenet5", batch_size=32)
    return Sizes(large, small, [replace(small, precision="float32")], ("off",), rounds=3, packed=(1, 2), seconds=1.0)


@dataclass
class Report:
    """The rows measured so far.

    Attributes:
        rows: name, value, bound and what else was found.
        cells: rates, as `harness.scaling` reads them.
        judge: compares with bounds.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    judge: Judge = field(default_factory=lambda: Judge([]))

    def add(self, name: str, value: float, bound: float, *, least: bool = False, **found: object) -> None:
        """Note and print a row."""
        self.rows.append({"name": name, "value": value, "bound": bound, "at_least": least, **found})
        print(f"{name:66} {self.judge(name, value, bound, least=least)}  {found or ''}", flush=True)


def try_modes(cell: Cell, make: MakeMethod, sizes: Sizes) -> dict[str, float | str]:
    """Time an epoch in each mode: seconds, or why it could not be trained."""
    found: dict[str, float | str] = {}
    for mode in sizes.modes:
        try:
            epoch = harness_epoch(replace(cell, compile=mode), make)
            found[mode] = statistics.median(in_turns({mode: epoch}, cell.device, sizes.rounds)[mode])
        except Exception as error:  # shown in the row
            found[mode] = f"{type(error).__name__}: {error}"[:300]
        torch.compiler.reset()
    return found


def fastest(times: Iterable[float | str]) -> float:
    """Give the least of the seconds.

    Raises:
        RuntimeError: if no mode could be trained; with the reasons.
    """
    tried = list(times)
    if not any(isinstance(time, float) for time in tried):
        raise RuntimeError(f"no mode trains: {tried}")
    return min(time for time in tried if isinstance(time, float))


def measure_loops(sizes: Sizes, report: Report) -> None:
    """Compare the harness's loop with a bare one, both as written."""
    for cell in [*sizes.loops, sizes.small, sizes.large]:
        epochs = {"harness": harness_epoch(cell), "bare": bare_epoch(cell)}
        times = in_turns(epochs, cell.device, sizes.rounds)
        taken = statistics.median(times["harness"])
        report.cells.append({**cell.describe("sgd"), "images_per_second": cell.pictures / taken})
        name = f"loop / bare loop, {cell.architecture} {cell.precision}"
        report.add(name, ratio(times, "harness", "bare"), 1.02, images_per_second=round(cell.pictures / taken))


def measure_large(sizes: Sizes, report: Report, peak: float) -> None:
    """Measure plain training and late-phase BatchNorm of the large network, each in its fastest mode."""
    cell = sizes.large
    plain = try_modes(cell, SGD, sizes)
    late = try_modes(cell, build(LATE), sizes)
    fused = try_modes(replace(cell, fuse_up_to=ALWAYS), build(LATE), sizes)
    rate = cell.pictures / fastest(plain.values())
    report.cells += [
        {**cell.describe(method), "compile": mode, "images_per_second": cell.pictures / taken}
        for method, found in (("sgd", plain), (LATE, late))
        for mode, taken in found.items()
        if isinstance(taken, float)
    ]
    name = cell.architecture
    report.add(f"{name} {cell.precision}, images/s", rate, 9000, least=True, seconds=plain)
    report.add(f"{name}, share of the measured matrix peak", rate * cell.operations / peak, 0.35, least=True)
    report.add(f"{name}, minutes for 200 epochs of CIFAR-10 (predicted)", 200 * CIFAR / rate / 60, 20)
    over = fastest([*late.values(), *fused.values()]) / fastest(plain.values())
    report.add(f"{name}, late-phase BN / SGD, each in its fastest mode", over, 1.0, seconds=late, fused=fused)


def measure_small(sizes: Sizes, report: Report) -> None:
    """Measure the small network: the fused cycle, prediction in one pass, and the time of a run."""
    cell = sizes.small
    fused = replace(cell, fuse_up_to=ALWAYS)
    make = build(LATE)
    epochs = {"sequential": harness_epoch(cell, make), "fused": harness_epoch(fused, make)}
    times = in_turns(epochs, cell.device, sizes.rounds)
    report.add(
        f"{cell.architecture}, K = 10: sequential / fused, eager", ratio(times, "sequential", "fused"), 3, least=True
    )
    one_by_one, together = try_modes(cell, make, sizes), try_modes(fused, make, sizes)
    gain = fastest(one_by_one.values()) / fastest(together.values())
    name = f"{cell.architecture}, K = 10: sequential / fused, each in its fastest mode"
    report.add(name, gain, 1.5, least=True, sequential=one_by_one, fused=together)
    for size in (cell.batch_size, 1024):
        gain = predict_ratio(cell, size, sizes.rounds)
        report.add(f"{cell.architecture}, 10 passes / one pass, {size} pictures predicted", gain, 2, least=True)
    plain = try_modes(cell, SGD, sizes)
    rate = cell.pictures / fastest(plain.values())
    report.cells.append({**cell.describe("sgd"), "compile": "fastest", "images_per_second": rate})
    name = f"{cell.architecture}, minutes for 160 epochs of CIFAR-10 (predicted)"
    report.add(name, 160 * CIFAR / rate / 60, 3, seconds=plain)


@torch.no_grad()
def predict_ratio(cell: Cell, size: int, rounds: int) -> float:
    """Compare members that predict one by one with members in one pass."""
    x = torch.cat([x for x, _ in replace(cell, minibatches=-(-size // cell.batch_size)).data()])[:size]
    method = cell.method(build(LATE)).eval()
    method.epoch = method.start_epoch

    def predict(limit: int) -> Callable[[], None]:
        def run() -> None:
            method.fuse_up_to = limit
            method.predict(x)

        return run

    times = in_turns({"passes": predict(0), "one": predict(ALWAYS)}, cell.device, rounds)
    return ratio(times, "passes", "one")


def measure_packed(sizes: Sizes, report: Report) -> None:
    """Let several runs share the device, each in a process of its own, as `--per-gpu` does."""
    rates = {mode: {count: packed_rate(sizes, count, mode) for count in sizes.packed} for mode in sizes.modes[:2]}
    best = max(max(found.values()) for found in rates.values())
    alone = max(found[1] for found in rates.values())
    name = f"{sizes.small.architecture}, packed / alone, images/s, each in its fastest mode"
    report.add(name, best / alone, 3, least=True, images_per_second=rates)


def packed_rate(sizes: Sizes, count: int, mode: str) -> float:
    """Give the images a second of so many processes together."""
    options = ["--worker", str(sizes.seconds), "--mode", mode]
    options += ["--rehearse"] if sizes.small.device == "cpu" else []
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *options]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            if worker.stdout.readline().strip() != READY:
                raise RuntimeError("a process that shares the device ended; its error stands above")
        for worker in workers:
            assert worker.stdin is not None
            print("go", file=worker.stdin, flush=True)
        return sum(float(worker.stdout.readline()) for worker in workers if worker.stdout is not None)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def work(sizes: Sizes, duration: float, mode: str) -> None:
    """Train beside others for a while, when told to; print the images a second."""
    torch.set_num_threads(1)  # which several processes have for each other
    cell = replace(sizes.small, compile=mode)
    epoch = harness_epoch(cell)
    for _ in range(2):
        seconds(epoch, cell.device)
    print(READY, flush=True)
    sys.stdin.readline()
    start, pictures = time.perf_counter(), 0
    while time.perf_counter() - start < duration:
        seconds(epoch, cell.device)
        pictures += cell.pictures
    print(pictures / (time.perf_counter() - start), flush=True)


def main() -> None:
    """Measure all rows, and write them; fail if one does not keep its bound."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/speed-gpu.json"), help="Default: %(default)s")
    parser.add_argument("--rehearse", action="store_true", help="At a tiny size on the CPU.")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=MODES, default="off", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        parser.error("there is no CUDA device; --rehearse does without, at a tiny size")
    sizes = rehearsed() if options.rehearse else full()
    torch.backends.cudnn.benchmark = True
    if options.worker is not None:
        work(sizes, options.worker, options.mode)
        return
    start = time.perf_counter()
    report = Report()
    device = sizes.large.device
    peaks = {precision: matrix_peak(device, precision) for precision in ("float32", "bfloat16")}
    print(", ".join(f"{name}: {peak / 1e12:.2f} TFLOP/s" for name, peak in peaks.items()))
    for measure in (
        measure_loops,
        measure_small,
        measure_packed,
        partial(measure_large, peak=peaks[sizes.large.precision]),
    ):
        try:
            measure(sizes, report)
        except Exception as error:
            report.judge.bad.append(f"{measure}: {type(error).__name__}: {error}")
            traceback.print_exc()
        results = {"matrix_peak": peaks, "rehearsal": options.rehearse, "rows": report.rows, "cells": report.cells}
        write_results(options.output, device, results)  # again and again: nothing is lost where time runs out
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes")
    if not options.rehearse:
        report.judge.end()


if __name__ == "__main__":
    main()
