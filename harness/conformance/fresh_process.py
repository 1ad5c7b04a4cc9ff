"""Trains a method in another process, to see whether it gives the same bits there.

Run as `python -m harness.conformance.fresh_process EXPRESSION NETWORK PLUGIN…`; it prints a fingerprint.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from harness.conformance.finding import Finding
from harness.conformance.small_run import Case, SmallRun, one_thread
from harness.parsing.method_expression import parse_method
from harness.parsing.plugins import available_methods

MARK = "fingerprint: "
"""What begins the line of the result; a plugin may print lines of its own."""


def fingerprint(small: SmallRun) -> str:
    """Return a hash of a finished run's state and predictions."""
    digest = hashlib.sha256()
    x, _ = small.test_batch()
    for name, value in {**small.method.state_dict(), "prediction": small.predict(x)}.items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()


class FreshProcess:
    """A process that trains a method on a network, while this one goes on."""

    def __init__(self, plugins: Sequence[Path], expression: str, network: str) -> None:
        """Start it, with another order of sets and dicts of strings."""
        command = [sys.executable, "-m", "harness.conformance.fresh_process", expression, network, *map(str, plugins)]
        environment = {**os.environ, "PYTHONHASHSEED": "12345"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self) -> None:
        """End it, if nothing was compared."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def compare(self, expected: str) -> Iterator[Finding]:
        """Wait for it, and check that its result has the expected fingerprint."""
        output, errors = self.process.communicate()
        found = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
        if not found:
            last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
            remedy = "the file must work wherever it is loaded: look for what this process alone has"
            yield Finding("process", f"in another process it fails: {last}", remedy)
        elif found[0] != expected:
            yield Finding(
                "process",
                "another process gets other bits with the same seed",
                "draw random numbers from `generator(purpose)` or the global generators, and depend neither on the "
                "order of sets, on hash() or id(), nor on the clock",
            )


def main(expression: str, network: str, *plugins: str) -> None:
    """Train a method, and print the fingerprint of the result."""
    methods = available_methods(map(Path, plugins))
    spec, errors = parse_method(expression, methods)
    assert spec is not None, errors
    with one_thread():
        print(MARK + fingerprint(Case(spec, methods, network).trained()))


if __name__ == "__main__":
    main(*sys.argv[1:])
