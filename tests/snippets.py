"""The blocks and commands of the documents, and how they are read, checked and run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from harness.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app).commands
ECON = [sys.executable, "-c", "from harness.cli import main; main()"]


class Block(NamedTuple):
    """A fenced block: its kind, the name of the file that it is, if it is one, and its text."""

    page: str
    line: int
    kind: str
    title: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Read the lines of a block of kind console, each a command after a prompt."""
        return [shlex.split(re.fullmatch(r"\w*\$ (.*)", line)[1], comments=True) for line in self.text.splitlines()]


def blocks(page: Path) -> list[Block]:
    """Give the blocks of a page, in order."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(FENCE.findall(text)), (
        f"{name}: a fence that no test reads"
    )
    return [Block(name, text[: m.start()].count("\n") + 1, *m.groups("")) for m in FENCE.finditer(text)]


BLOCKS = [block for page in PAGES for block in blocks(page)]
FILES = {block.title: block for block in BLOCKS if block.title}
"""The files that the documents show whole."""


def inline_commands() -> Iterator[tuple[str, list[str]]]:
    """Give the commands inside sentences: `econ run STUDY --ranks 8`."""
    for page in PAGES:
        for command in re.findall(r"`econ ([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
            yield page.name, shlex.split(command)


def parse(arguments: list[str]) -> dict[str, object]:
    """Read the arguments of `econ` as it does itself; a word that it does not know ends the test."""
    name, *rest = arguments
    return COMMANDS[name].make_context(name, rest).params


def run(command: list[str], *, timeout: float = 600) -> str:
    """Run a command here, `econ` and `python` by the Python of the tests."""
    program = {"econ": ECON, "python": [sys.executable]}.get(command[0], command[:1])
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*program, *command[1:]], env=environment, capture_output=True, encoding="utf-8", timeout=timeout
    )
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
