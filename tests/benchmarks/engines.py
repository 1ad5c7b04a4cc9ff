"""Compares the engines: how much faster two workers finish a study than one process.

The study is a part of `digits`: six of its methods on both networks with its three seeds. It takes one process some
minutes. Everything else is as in `digits`, including evaluation on corrupted images and OOD datasets. Each run has one
thread. The seconds are those of the whole command `econ run`, including the start of Python, of the workers and of Ray,
which alone takes about ten seconds. The average number of runs at a time tells how well the two workers are used, even
if the machine has other load.

Run it on a machine without other load: `python -m tests.benchmarks.engines`. It takes about ten minutes.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from harness.planning.plan import Plan
from harness.studies.study import load
from harness.studies.study_files import STUDIES

METHODS = ["sgd", "mc_dropout", "swa", "late_phase_bn(K=5)", "line", "deep_ensemble(K=3)"]
ARCHITECTURES = ["lenet5", "wrn-10-1"]
SEEDS = [0, 1, 2]
ENGINES = {
    "inline": ["--engine", "inline", "--threads", "1"],
    "processes": ["--engine", "processes", "--workers", "2", "--threads", "1"],
    "ray": ["--engine", "ray", "--workers", "2", "--threads", "1"],
}
BOUNDS = {"processes": 1.6, "ray": 1.6}
"""Minimum speed-up of two workers over one process, for each engine."""


def write_study(path: Path) -> Plan:
    """Write the study, and return its plan."""
    raw = yaml.safe_load((STUDIES / "digits.yaml").read_text())
    path.write_text(yaml.safe_dump({**raw, "architectures": ARCHITECTURES, "seeds": SEEDS, "methods": METHODS}))
    return Plan(load(str(path)))


def time_study(study: Path, runs: Path, options: list[str]) -> tuple[float, float]:
    """Run the study from the start. Return the seconds of the command, and the sum of the seconds of its runs."""
    shutil.rmtree(runs, ignore_errors=True)
    command = [sys.executable, "-m", "harness.cli", "run", str(study), "--runs", str(runs), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=study.parent, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, sum(map(float, re.findall(r": finished in ([\d.]+) s$", done.stdout, re.M)))


def main() -> None:
    """Print the seconds of each engine, measured in turns, and the medians of the speed-ups with their bounds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="How often each engine runs the study.")
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "part.yaml"
        plan = write_study(study)
        epochs = sum(planned.epochs for planned in plan.runs.values())
        print(f"{len(plan.runs)} runs, {epochs:,} epochs; seconds of each round", flush=True)
        for _ in range(rounds):
            for name, options in ENGINES.items():
                taken, runs = time_study(study, Path(folder) / "runs", options)
                times[name].append(taken)
                print(f"{name:10} {taken:7.1f} s, {runs / taken:.2f} runs at a time", flush=True)
    good = True
    for name, bound in BOUNDS.items():
        ratios = [one / other for one, other in zip(times["inline"], times[name], strict=True)]
        ratio = statistics.median(ratios)
        good &= ratio >= bound
        verdict = "" if ratio >= bound else "  below the bound"
        print(f"inline / {name:10} {ratio:5.2f} >= {bound}{verdict}")
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
