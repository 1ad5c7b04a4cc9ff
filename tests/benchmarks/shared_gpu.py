"""Measures the speed of several runs that share a GPU, each in a process of its own, as with `--per-gpu`.

    python -m tests.benchmarks.shared_gpu SETUP SECONDS

is one of the processes. It prints when it is ready, waits for a command to train for SECONDS, and prints its speed.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO

import torch

from tests.benchmarks.epochs import TrainingSetup, harness_epoch
from tests.benchmarks.timing import time_epoch

READY, GO, RATE = "ready", "go", "images/s"
ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
"""The line of a traceback that names the exception. Compilers print advice after it."""


class TrainingProcess:
    """One of the processes, as its parent sees it."""

    def __init__(self, command: Sequence[str], errors: IO[str]) -> None:
        """Start the process. All processes write errors to the same file."""
        self.errors = errors
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )

    def read(self, word: str) -> str:
        """Wait for a line that begins with a word, and return the rest of the line. Skip the output of libraries.

        Raises:
            RuntimeError: if the process ended. The message has its last error.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            first, _, rest = line.strip().partition(" ")
            if first == word:
                return rest
        raise self.make_error()

    def go(self) -> None:
        """Tell the process to train.

        Raises:
            RuntimeError: if the process ended. The message has its last error.
        """
        assert self.process.stdin is not None
        try:
            print(GO, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self.make_error() from None

    def make_error(self) -> RuntimeError:
        """Return an error with the last exception in the file of errors, or with its last line if there is none."""
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines() or ["it said nothing"]
        named = [line for line in said if ERROR.match(line)]
        return RuntimeError(f"a process that shares the device ended: {(named or said)[-1][:300]}")

    def end(self) -> None:
        """Kill the process, if it has not ended."""
        self.process.kill()
        self.process.wait()


def shared_gpu_rate(setup: TrainingSetup, count: int, duration: float, errors: IO[str]) -> float:
    """Measure the total images a second of several processes that train at once.

    Args:
        setup: what each process trains.
        count: number of processes.
        duration: seconds for which they train at once, when all are ready.
        errors: an empty file for their errors.

    Raises:
        RuntimeError: if a process ended early.
    """
    command = [sys.executable, "-m", "tests.benchmarks.shared_gpu", json.dumps(asdict(setup)), str(duration)]
    workers: list[TrainingProcess] = []
    try:
        workers.extend(TrainingProcess(command, errors) for _ in range(count))
        for worker in workers:
            worker.read(READY)
        for worker in workers:
            worker.go()
        return sum(float(worker.read(RATE)) for worker in workers)
    finally:
        for worker in workers:
            worker.end()


def train_when_told(setup: TrainingSetup, duration: float) -> None:
    """Train for a while, when the parent tells it to, and print the images a second."""
    torch.set_num_threads(1)  # as several processes share the cores
    torch.backends.cudnn.benchmark = True
    epoch = harness_epoch(setup)
    for _ in range(2):
        time_epoch(epoch, setup.device)
    print(READY, flush=True)
    if sys.stdin.readline().strip() != GO:
        return  # the parent has ended
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < duration:
        time_epoch(epoch, setup.device)
        images += setup.images
    print(RATE, images / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    train_when_told(TrainingSetup(**json.loads(sys.argv[1])), float(sys.argv[2]))
