"""Time the engines side by side: how much faster two workers finish what one process does.

They train a part of the study `digits`: six of its methods on both networks with its three seeds, which takes a process
some minutes; everything else is as in the study, evaluation on corrupted and foreign images included. Each run has
one thread. Seconds are those of the whole command `econ run`, with the start of Python, of the workers and of Ray,
which takes about ten of them. How many runs were under way at a time, on average over those seconds, tells what start,
end and waiting leave of the two workers, also on a machine that does other things.

Run it by hand on a machine that does nothing else; it takes about ten minutes: `python -m tests.benchmarks.engines`.
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
"""The least times that two workers are to be faster."""


def write_part(path: Path) -> Plan:
    """Write the part of the study, and expand it."""
    raw = yaml.safe_load((STUDIES / "digits.yaml").read_text())
    path.write_text(yaml.safe_dump({**raw, "architectures": ARCHITECTURES, "seeds": SEEDS, "methods": METHODS}))
    return Plan(load(str(path)))


def seconds(study: Path, runs: Path, options: list[str]) -> tuple[float, float]:
    """Train the part of the study anew; give how long it took, and how long its runs did one by one."""
    shutil.rmtree(runs, ignore_errors=True)
    command = [sys.executable, "-m", "harness.cli", "run", str(study), "--runs", str(runs), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=study.parent, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, sum(map(float, re.findall(r": finished in ([\d.]+) s$", done.stdout, re.M)))


def main() -> None:
    """Print the seconds of each engine, in turns, and the medians of the ratios beside their bounds."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="How often each engine trains the part of the study.")
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "part.yaml"
        plan = write_part(study)
        epochs = sum(planned.epochs for planned in plan.runs.values())
        print(f"{len(plan.runs)} runs, {epochs:,} epochs; seconds of each round", flush=True)
        for _ in range(rounds):
            for name, options in ENGINES.items():
                taken, runs = seconds(study, Path(folder) / "runs", options)
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
