"""Measures the speed of the harness on a GPU.

Every row is a figure with its bound: a median with quartiles over rounds, or a single value for several runs at once.
All rows are written as JSON, from which `python -m harness.planning.scaling_forecast --rates FILE` predicts hours.
`--rehearse` does the same at a tiny size on the CPU, into a file of its own. It only shows that the command works.

    python -m tests.benchmarks.gpu --output results/speed-gpu.json

measures these parts in this order; `--only` selects some. The minutes are estimates for an H200 with 16 CPU cores and
have not been measured. Most of them are spent compiling, or starting processes.

    large    3.0   WRN-28-10: its loop, fastest mode, share of the peak speed, and late-phase BatchNorm against SGD
    loops    0.8   the loops of the other networks
    methods  0.7   all methods against SGD, cResNet20
    small    3-5   cResNet20: fused members against members one by one, and the time of a run
    packed   4-5   cResNet20: several runs at once

Several commands may measure parts, for example if each may take ten minutes at most. The file collects all parts:

    python -m tests.benchmarks.gpu --only large loops methods
    python -m tests.benchmarks.gpu --only small
    python -m tests.benchmarks.gpu --only packed

If the next command runs on another machine, copy the file to its `--output` first. The commit, the name of the device,
the number of threads and the version of torch must be the same. If the code has no `.git`, give each command the same
`ECON_COMMIT=$(git describe --always --dirty --abbrev=12)`.

Besides torch, the command needs numpy, scipy, pillow, pyyaml and rich, and optuna and pydantic with what they import:
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
from tests.benchmarks.compile_modes import free_compiled
from tests.benchmarks.device import command, describe_environment, matrix_peak, write_results
from tests.benchmarks.epochs import TrainingSetup, method_row, time_method
from tests.benchmarks.gpu_networks import measure_large, measure_loop, measure_small
from tests.benchmarks.gpu_report import Report, Sizes, full_sizes, other_parts, rehearsal_sizes
from tests.benchmarks.shared_gpu import shared_gpu_rate
from tests.benchmarks.timing import Measurement

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
"""The methods that are compared with plain training."""


def measure_loops(sizes: Sizes, report: Report) -> None:
    """Compare the loop of the harness with a bare loop, for the other networks."""
    for setup in sizes.loops:
        measure_loop(setup, sizes, report)


def measure_methods(sizes: Sizes, report: Report) -> None:
    """Compare methods with plain training. Late-phase members are fused as by default."""
    setup = replace(sizes.methods, fuse_up_to=int(GPU_OPERATIONS / (sizes.methods.operations / 3)))  # of a forward pass
    for expression in COMPARED:
        row = method_row(setup, expression, time_method(setup, expression, sizes.rounds), bound=None)
        free_compiled()
        report.add_cell(row)
        report.add(f"{setup.architecture} {setup.precision}, {expression} / SGD", row["over_sgd"])


def measure_packed(sizes: Sizes, report: Report) -> None:
    """Compare several runs that share the device with a single run, each in its fastest number and mode.

    Raises:
        RuntimeError: if no run can be trained alone.
    """
    rates: dict[str, dict[int, float | str]] = {}
    for mode in sizes.packed_modes:
        rates[mode] = {}
        for count in sizes.packed:
            rates[mode][count] = found = rate_or_error(replace(sizes.small, compile=mode), count, sizes.seconds)
            printed = found if isinstance(found, str) else f"{found:,.0f} images/s"
            print(f"compile {mode}, at once {count}: {printed}", flush=True)  # kept if time runs out later
    name = f"{sizes.small.architecture} {sizes.small.precision}, packed / alone, images/s, each in its fastest mode"
    report.add(name, sharing_gain(rates), images_per_second=rates)


def rate_or_error(setup: TrainingSetup, count: int, duration: float) -> float | str:
    """Return the total images a second of several runs, or their error."""
    with tempfile.TemporaryFile("w+") as errors:
        try:
            return shared_gpu_rate(setup, count, duration, errors)
        except Exception as error:  # the row shows it
            return f"{type(error).__name__}: {error}"


def sharing_gain(rates: dict[str, dict[int, float | str]]) -> Measurement:
    """Return the ratio of the fastest speed of several runs to the fastest speed of one.

    Args:
        rates: mode of torch.compile → number of runs → total images a second, or an error.

    Raises:
        RuntimeError: if no run can be trained alone.
    """
    alone = [found[1] for found in rates.values() if isinstance(found[1], float)]
    together = [rate for found in rates.values() for rate in found.values() if isinstance(rate, float)]
    if not alone:
        raise RuntimeError(f"no run trains alone: {rates}")
    return Measurement.of([max(together) / max(alone)], 3, at_least=True)


PARTS: dict[str, Callable[[Sizes, Report], None]] = {
    "large": measure_large,
    "loops": measure_loops,
    "methods": measure_methods,
    "small": measure_small,
    "packed": measure_packed,
}


def measure(part: str, sizes: Sizes, report: Report) -> dict[str, object]:
    """Measure a part. Return its command, its duration in minutes, and its error if it failed."""
    start, failed = time.perf_counter(), None
    report.part = part
    try:
        PARTS[part](sizes, report)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
        report.checker.violations.append(f"{part}: {failed}")
        traceback.print_exc()
    free_compiled()
    taken = (time.perf_counter() - start) / 60
    print(f"{part}: measured in {taken:.1f} minutes", flush=True)
    return {"command": command(), "matrix_peak": report.peaks, "minutes": taken, "failed": failed}


def main() -> None:
    """Measure all rows and write them. Exit with an error if a bound does not hold."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, help=f"Default: {MEASURED}, or {REHEARSED}")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="Measure these parts only.")
    parser.add_argument("--rehearse", action="store_true", help="Measure at a tiny size on the CPU.")
    options = parser.parse_args()
    if not (options.rehearse or torch.cuda.is_available()):
        parser.error("there is no CUDA device; --rehearse measures at a tiny size without one")
    sizes = rehearsal_sizes() if options.rehearse else full_sizes()
    torch.backends.cudnn.benchmark = True
    device = sizes.large.device
    made = {**describe_environment(device), "rehearsal": options.rehearse}
    output = options.output or Path(REHEARSED if options.rehearse else MEASURED)
    results = other_parts(output, options.only, made)
    report = Report({precision: matrix_peak(device, precision, sizes.side) for precision in ("float32", "bfloat16")})
    report.rows, report.cells = results["rows"], results["cells"]
    print(", ".join(f"{name}: {peak / 1e12:.2f} TFLOP/s" for name, peak in report.peaks.items()))
    for part in PARTS:
        if part in options.only:
            results["parts"][part] = measure(part, sizes, report)
            results["command"] = "; ".join(dict.fromkeys(about["command"] for about in results["parts"].values()))
            write_results(output, device, made | results)  # after each part, so that nothing is lost if time runs out
    if not options.rehearse:
        report.checker.exit_if_violated()


if __name__ == "__main__":
    main()
