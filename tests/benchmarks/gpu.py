"""Measure on a GPU all that is asked of the harness's speed there.

Every row is a figure beside its bound: a median with its quartiles over rounds, or, of several runs at once, the one
value that was measured. All is written as JSON, from which
`python -m harness.planning.scaling_forecast --rates FILE` predicts hours.
`--rehearse` does the same at a tiny size on the CPU, into a file of its own, which shows that the script runs and
nothing else.

    python -m tests.benchmarks.gpu --output results/speed-gpu.json

measures these parts, in this order, of which `--only` takes some. The minutes are estimates for an H200 with 16 CPU
cores, which nobody has measured; most of them are spent compiling, or starting processes.

    large    3.0   WRN-28-10: its loop, fastest mode, share of the peak, and late-phase BatchNorm against SGD
    loops    0.8   the loops of the other networks
    methods  0.7   all methods against SGD, cResNet20
    small    3-5   cResNet20: fused members against members one by one, and the time of a run
    packed   4-5   cResNet20: several runs at once

Parts measured by several commands, as where one may take ten minutes, are put together in the file:

    python -m tests.benchmarks.gpu --only large loops methods
    python -m tests.benchmarks.gpu --only small
    python -m tests.benchmarks.gpu --only packed

Where the next command runs on another machine, carry the file along: `--output` is read there. The commit, the name of
the device, the threads and torch must be the same. Where the code is without its `.git`, give each command the same
`ECON_COMMIT=$(git describe --always --dirty --abbrev=12)`.

Besides torch, this needs numpy, scipy, pillow, pyyaml and rich, and optuna and pydantic with what they import:
colorlog, packaging and tqdm; annotated-types, pydantic-core and typing-inspection.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from harness.running.fusing_limit import GPU_OPERATIONS
from tests.benchmarks.cells import Cell, method_row, time_method
from tests.benchmarks.comparison import Measured
from tests.benchmarks.device import command, matrix_peak, where, write_results
from tests.benchmarks.modes import forget
from tests.benchmarks.networks import measure_large, measure_loop, measure_small
from tests.benchmarks.packed import packed_rate
from tests.benchmarks.report import Report, Sizes, full, other_parts, rehearsed

MEASURED, REHEARSED = "results/speed-gpu.json", "results/speed-gpu-rehearsed.json"
COMPARED = (
    "dropout",
    "late_phase_bn(K=10, start=500)",
    "late_phase_rank1(K=10, start=500)",
    "late_phase_hypernet(K=10, start=500)",
    "batch_ensemble(K=4)",
    "line",
    "curve",
    "swa(start=500)",
    "swag(start=500)",
)
"""What is compared with plain training."""


def measure_loops(sizes: Sizes, report: Report) -> None:
    """Compare the harness's loop with a bare one for the other networks."""
    for cell in sizes.loops:
        measure_loop(cell, sizes, report)


def measure_methods(sizes: Sizes, report: Report) -> None:
    """Compare methods with plain training, members fused as the harness does it by default."""
    cell = replace(sizes.methods, fuse_up_to=int(GPU_OPERATIONS / (sizes.methods.operations / 3)))  # of a forward pass
    for written in COMPARED:
        row = method_row(cell, written, time_method(cell, written, sizes.rounds), bound=None)
        forget()
        report.add_cell(row)
        report.add(f"{cell.architecture} {cell.precision}, {written} / SGD", row["over_sgd"])


def measure_packed(sizes: Sizes, report: Report) -> None:
    """Let several runs share the device; how many are best, and in which mode, is part of the question.

    Raises:
        RuntimeError: if none could be trained alone.
    """
    rates: dict[str, dict[int, float | str]] = {}
    for mode in sizes.packed_modes:
        rates[mode] = {}
        for count in sizes.packed:
            rates[mode][count] = found = rate_or_reason(replace(sizes.small, compile=mode), count, sizes.seconds)
            said = found if isinstance(found, str) else f"{found:,.0f} images/s"
            print(f"compile {mode}, at once {count}: {said}", flush=True)  # not lost where time runs out
    name = f"{sizes.small.architecture} {sizes.small.precision}, packed / alone, images/s, each in its fastest mode"
    report.add(name, packed_gain(rates), images_per_second=rates)


def rate_or_reason(cell: Cell, count: int, duration: float) -> float | str:
    """Give the images a second of so many runs together, or why there are none."""
    with tempfile.TemporaryFile("w+") as errors:
        try:
            return packed_rate(cell, count, duration, errors)
        except Exception as error:  # shown in the row
            return f"{type(error).__name__}: {error}"


def packed_gain(rates: dict[str, dict[int, float | str]]) -> Measured:
    """Compare the most images a second of several runs with those of one, given by mode and number.

    Raises:
        RuntimeError: if none could be trained alone.
    """
    alone = [found[1] for found in rates.values() if isinstance(found[1], float)]
    together = [rate for found in rates.values() for rate in found.values() if isinstance(rate, float)]
    if not alone:
        raise RuntimeError(f"no run trains alone: {rates}")
    return Measured.of([max(together) / max(alone)], 3, least=True)


PARTS: dict[str, Callable[[Sizes, Report], None]] = {
    "large": measure_large,
    "loops": measure_loops,
    "methods": measure_methods,
    "small": measure_small,
    "packed": measure_packed,
}


def measure(part: str, sizes: Sizes, report: Report) -> dict[str, object]:
    """Measure a part; say how long that took, and what failed of it."""
    start, failed = time.perf_counter(), None
    report.part = part
    try:
        PARTS[part](sizes, report)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
        report.judge.bad.append(f"{part}: {failed}")
        traceback.print_exc()
    forget()
    taken = (time.perf_counter() - start) / 60
    print(f"{part}: measured in {taken:.1f} minutes", flush=True)
    return {"command": command(), "matrix_peak": report.peaks, "minutes": taken, "failed": failed}


def main() -> None:
    """Measure all rows, and write them; fail if one does not keep its bound."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, help=f"Default: {MEASURED}, or {REHEARSED}")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="These parts.")
    parser.add_argument("--rehearse", action="store_true", help="At a tiny size on the CPU.")
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        parser.error("there is no CUDA device; --rehearse does without, at a tiny size")
    sizes = rehearsed() if options.rehearse else full()
    torch.backends.cudnn.benchmark = True
    device = sizes.large.device
    made = {**where(device), "rehearsal": options.rehearse}
    output = options.output or Path(REHEARSED if options.rehearse else MEASURED)
    results = other_parts(output, options.only, made)
    report = Report({precision: matrix_peak(device, precision, sizes.side) for precision in ("float32", "bfloat16")})
    report.rows, report.cells = results["rows"], results["cells"]
    print(", ".join(f"{name}: {peak / 1e12:.2f} TFLOP/s" for name, peak in report.peaks.items()))
    for part in PARTS:
        if part in options.only:
            results["parts"][part] = measure(part, sizes, report)
            results["command"] = "; ".join(dict.fromkeys(about["command"] for about in results["parts"].values()))
            write_results(output, device, made | results)  # each time: nothing is lost where time runs out
    if not options.rehearse:
        report.judge.end()


if __name__ == "__main__":
    main()
