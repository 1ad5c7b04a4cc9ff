"""Several runs that share a GPU, each in a process of its own, as `--per-gpu` lets them.

    python -m tests.benchmarks.packed CELL SECONDS

is one of the processes: it says when it is ready, trains for so long when told to, and says how many images a second.
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

from tests.benchmarks.cells import Cell, harness_epoch
from tests.benchmarks.comparison import seconds

READY, GO, RATE = "ready", "go", "images/s"
ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
"""How a traceback names what was raised; compilers print advice after it."""


class Worker:
    """A process, seen from the one that starts it."""

    def __init__(self, command: Sequence[str], errors: IO[str]) -> None:
        """Start it; what it says of errors goes to a file that all of them share."""
        self.errors = errors
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )

    def read(self, word: str) -> str:
        """Wait for a line that begins with a word, past what libraries print; give the rest of it.

        Raises:
            RuntimeError: if the process ended; with its last error.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            first, _, rest = line.strip().partition(" ")
            if first == word:
                return rest
        raise self.ended()

    def go(self) -> None:
        """Let it train.

        Raises:
            RuntimeError: if the process ended; with its last error.
        """
        assert self.process.stdin is not None
        try:
            print(GO, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self.ended() from None

    def ended(self) -> RuntimeError:
        """Say why it ended: by the last error of the file, or its last line where none is named."""
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines() or ["it said nothing"]
        named = [line for line in said if ERROR.match(line)]
        return RuntimeError(f"a process that shares the device ended: {(named or said)[-1][:300]}")

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
    command = [sys.executable, "-m", "tests.benchmarks.packed", json.dumps(asdict(cell)), str(duration)]
    workers: list[Worker] = []
    try:
        workers.extend(Worker(command, errors) for _ in range(count))
        for worker in workers:
            worker.read(READY)
        for worker in workers:
            worker.go()
        return sum(float(worker.read(RATE)) for worker in workers)
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
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < duration:
        seconds(epoch, cell.device)
        images += cell.images
    print(RATE, images / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    work(Cell(**json.loads(sys.argv[1])), float(sys.argv[2]))
