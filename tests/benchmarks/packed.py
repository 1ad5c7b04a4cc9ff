"""Several runs that share a GPU, each in a process of its own, as `--per-gpu` lets them.

    python -m tests.benchmarks.packed CELL SECONDS

is one of the processes: it says when it is ready, trains for so long when told to, and says how many images a second.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from typing import IO

import torch

from tests.benchmarks.cells import Cell, harness_epoch
from tests.benchmarks.comparison import seconds

READY, GO = "ready", "go"


class Worker:
    """A process, seen from the one that starts it."""

    def __init__(self, cell: Cell, duration: float, errors: IO[str]) -> None:
        """Start it; what it says of errors goes to a file that all of them share."""
        self.errors = errors
        command = [sys.executable, "-m", "tests.benchmarks.packed", json.dumps(asdict(cell)), str(duration)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )

    def read(self) -> str:
        """Wait for a line.

        Raises:
            RuntimeError: if the process ended; with its last words.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"a process that shares the device ended: {said[-1][:300]}")
        return line

    def go(self) -> None:
        """Let it train."""
        assert self.process.stdin is not None
        print(GO, file=self.process.stdin, flush=True)

    def end(self) -> None:
        """End it, if it did not."""
        self.process.kill()
        self.process.wait()


def packed_rate(cell: Cell, count: int, duration: float, errors: IO[str]) -> float:
    """Give the images a second of so many processes together.

    Args:
        cell: what each of them trains.
        count: how many there are.
        duration: seconds for which they train at once, when all are ready.
        errors: an empty file for what they say of errors.

    Raises:
        RuntimeError: if one of them ended early.
    """
    workers: list[Worker] = []
    try:
        workers.extend(Worker(cell, duration, errors) for _ in range(count))
        for worker in workers:
            worker.read()
        for worker in workers:
            worker.go()
        return sum(float(worker.read()) for worker in workers)
    finally:
        for worker in workers:
            worker.end()


def work(cell: Cell, duration: float) -> None:
    """Train beside others for a while, when told to; print the images a second."""
    torch.set_num_threads(1)  # which several processes have for each other
    torch.backends.cudnn.benchmark = True
    epoch = harness_epoch(cell)
    for _ in range(2):
        seconds(epoch, cell.device)
    print(READY, flush=True)
    if sys.stdin.readline().strip() != GO:
        return  # the one that started it has ended
    start, pictures = time.perf_counter(), 0
    while time.perf_counter() - start < duration:
        seconds(epoch, cell.device)
        pictures += cell.pictures
    print(pictures / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    work(Cell(**json.loads(sys.argv[1])), float(sys.argv[2]))
