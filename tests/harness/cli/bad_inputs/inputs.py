"""Gives the command line, in this process, files, arguments and an environment, and says what comes of them."""

import os
import sys
import time
import traceback
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from pathlib import Path
from unittest.mock import patch

from harness.cli import main

STUDY = {
    "datasets": "[digits]",
    "architectures": "[lenet5]",
    "seeds": "[0]",
    "methods": "[sgd]",
    "recipe": "{epochs: 1}",
}
CHECK = ("run", "s.yaml", "--dry-run")
"""The command that reads a study, checks and plans it, and trains nothing."""


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: what it is.
        says: a part of what is printed about it.
        arguments: of the command line.
        files: texts or bytes by the name of the file.
        environment: environment variables.
        code: the exit code.
        encoding: of the terminal.
        seconds: the longest that it may take.
        anywhere: whether it is said in any line, not in the first.
    """

    name: str
    says: str
    arguments: tuple[str, ...] = CHECK
    files: dict[str, str | bytes] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    code: int = 2
    encoding: str = "utf-8"
    seconds: float = 5.0
    anywhere: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of an input: the exit code, what was printed, and the seconds that it took."""

    code: int
    printed: str
    seconds: float

    @property
    def first_line(self) -> str:
        """The first line that says something of the input: no heading, and no frame around it."""
        boxed = [line.strip("│| ") for line in self.printed.splitlines() if line[:1] in "│|"]
        if self.code == 2 and boxed:
            return " ".join(filter(None, boxed))
        lines = [line for line in self.printed.splitlines() if not line.endswith(("nothing was started", "be used"))]
        return next(filter(None, map(str.strip, lines)), "")


def study(**changes: str) -> str:
    """Return the text of a study; a part with the text "" is left out."""
    return "".join(f"{key}: {value}\n" for key, value in (STUDY | changes).items() if value)


def give(given: Input, folder: Path) -> Outcome:
    """Give an input to the command line in a folder."""
    for name, content in given.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    out, err = (TextIOWrapper(BytesIO(), encoding=given.encoding, write_through=True) for _ in range(2))
    began, code = time.perf_counter(), 0
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "COLUMNS")}
    with (
        chdir(folder),
        patch.dict(os.environ, kept | given.environment, clear=True),
        patch.object(sys, "argv", ["econ", *given.arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = -1
    seconds = time.perf_counter() - began
    printed = "".join(stream.buffer.getvalue().decode(given.encoding) for stream in (err, out))  # type: ignore
    return Outcome(code, printed, seconds)
