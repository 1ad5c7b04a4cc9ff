"""Writes a table of all inputs, and of what came of each: `python -m tests.harness.cli.bad_inputs`."""

import os
import tempfile
from pathlib import Path

from tests.harness.cli.bad_inputs.all_inputs import INPUTS
from tests.harness.cli.bad_inputs.inputs import give

LENGTH = 160
"""Characters of a line that are shown."""


def cell(text: str) -> str:
    """Write a text as a cell of a Markdown table."""
    short = text if len(text) <= LENGTH else f"{text[:LENGTH]}…"
    return " ".join(short.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Give each input to the command line, in a folder and with a cache of its own, and print the table."""
    print("| input | exit code | first line | seconds |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ECON_CACHE"] = f"{folder}/cache"
        for i, given in enumerate(INPUTS):
            place = Path(folder, str(i))
            place.mkdir()
            found = give(given, place)
            line = found.first_line.replace(str(place), "…")
            print(f"| {cell(given.name)} | {found.code} | {cell(line)} | {found.seconds:.1f} |", flush=True)


main()
