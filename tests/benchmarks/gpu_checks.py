"""Checks on a machine with a GPU, in one command: `make check-gpu`, or `python -m tests.benchmarks.gpu_checks`.

Each stage has a limit of its own and writes what it printed to a file, so that one that hangs or fails loses no other.
The parts `tests` and `speed` fit into about seven minutes each; these are estimates, for nothing ran on a GPU so far.

`--rehearse` runs the same stages on the CPU: tests that need a GPU are collected and skipped, runs are driven on the
stand-in device, and measurements are tiny. It only shows that every command starts and ends.

A machine without a network may lack packages. They can be brought along in a folder that is put on PYTHONPATH:

    pip install --target .venv/device --only-binary=:all: pydantic pytest pytest-xdist hypothesis filelock typer \\
        pyyaml rich colorlog tqdm packaging optuna
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PYTEST = ("pytest", "-q", "-m", "gpu", "--import-mode=importlib", "-p", "no:cacheprovider")
DRIVE = ("-m", "tests.stand_in.drive")
MACHINE = "import torch; print(torch.__version__, torch.version.cuda, torch.backends.cudnn.version(), torch.cuda.{})"


class Stage(NamedTuple):
    """A command that is run with a limit.

    Attributes:
        part: "tests" or "speed".
        name: the name of its file.
        seconds: its limit.
        arguments: of Python.
        rehearsal: those of its rehearsal.
    """

    part: str
    name: str
    seconds: int
    arguments: tuple[str, ...]
    rehearsal: tuple[str, ...]


def tests(name: str, seconds: int, *arguments: str) -> Stage:
    """Return a stage of tests that need a GPU; in a rehearsal they are collected."""
    return Stage("tests", name, seconds, ("-m", *PYTEST, *arguments), ("-m", *PYTEST, *arguments, "--collect-only"))


def measurement(name: str, seconds: int, *parts: str) -> Stage:
    """Return a stage of measurements, which all go into one file."""
    command = ("-m", "tests.benchmarks.gpu", "--only", *parts, "--output")
    return Stage(
        "speed", name, seconds, (*command, "{output}/speed.json"), (*command, "{output}/speed.json", "--rehearse")
    )


STAGES = (
    Stage(
        "tests", "machine", 60, ("-c", MACHINE.format("get_device_name()")), ("-c", MACHINE.format("is_available()"))
    ),
    tests("basics", 60, "-x", "tests/harness/costs", "tests/data/tasks/test_batches.py"),
    tests("steps", 150, "tests/harness/running/test_speed_on_gpu.py", "tests/methods/core", "-k", "not compiled"),
    tests("runs", 60, "tests/harness/evaluation", "tests/data/tasks/test_file_batches.py", "tests/harness/tracking"),
    tests("corruptions", 80, "tests/data/corruptions"),
    Stage("tests", "methods", 150, (*DRIVE, "--quick", "--real"), (*DRIVE, "--only", "sgd")),
    measurement("small", 200, "loops", "small"),
    measurement("large", 240, "large"),
    tests("compiled", 100, "tests/harness/running/test_speed_on_gpu.py", "-k", "compiled")._replace(part="speed"),
)


def run(stage: Stage, output: Path, *, rehearse: bool) -> str:
    """Run a stage, write what it printed to its file, and return how it ended.

    Args:
        stage: the stage.
        output: the folder of the files.
        rehearse: whether to run its rehearsal.
    """
    given = stage.rehearsal if rehearse else stage.arguments
    command = [sys.executable, *(argument.replace("{output}", str(output)) for argument in given)]
    with (output / f"{stage.name}.txt").open("w") as file:
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=stage.seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return f"ended after its limit of {stage.seconds} s"
    return "passed" if done.returncode == 0 else f"failed with exit code {done.returncode}"


def main() -> None:
    """Run the stages that are asked for; exit with 1 unless all pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", choices=["tests", "speed"], help="default: both, in this order")
    parser.add_argument("--only", nargs="*", help="names of stages")
    parser.add_argument("--output", type=Path, default=Path("results/gpu"), help="the folder of the files")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU; shows that every stage starts and ends")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    failed = False
    for stage in STAGES:
        if (asked.part and stage.part != asked.part) or (asked.only and stage.name not in asked.only):
            continue
        start = time.monotonic()
        ended = run(stage, asked.output.absolute(), rehearse=asked.rehearse)
        failed |= ended != "passed"
        last = (asked.output / f"{stage.name}.txt").read_text().strip().splitlines()[-1:]
        print(f"{stage.name:12} {time.monotonic() - start:5.0f} s  {ended}: {''.join(last)}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
