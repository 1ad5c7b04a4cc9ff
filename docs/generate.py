"""Write what follows from the code: `python docs/generate.py`.

docs/methods.md is made of `econ list methods` and the methods' docstrings, the tables of docs/paper-studies.md of
`econ list studies`, and the map in docs/architecture.md of the first lines of all modules.
"""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.options import console
from methods import METHODS, Method

METHODS_PAGE = Path(__file__).with_name("methods.md")
STUDIES_PAGE = Path(__file__).with_name("paper-studies.md")
BEGIN, END = "<!-- studies: written by `python docs/generate.py` -->\n", "<!-- /studies -->\n"
ARCHITECTURE_PAGE = Path(__file__).with_name("architecture.md")
BEGIN_ROOMS, END_ROOMS = "<!-- rooms: written by `python docs/generate.py` -->\n", "<!-- /rooms -->\n"
ROOMS = ("harness", "analysis", "methods", "models", "data")
ROOT = Path(__file__).parent.parent
PAPERS = {
    "late-phase": "Neural networks with late-phase weights (von Oswald et al. 2021)",
    "hypernetworks": "Economical ensembles with hypernetworks (Sacramento et al. 2020)",
    "subspaces": "Learning neural network subspaces (Wortsman et al. 2021)",
}
HEAD = """\
# Methods

<!-- Written by `python docs/generate.py`: change a method's docstring or `about`, not this page. -->

Look up here what a method does, what it costs, and which values it takes. In a terminal, `econ list methods` says the
same in fewer words.

A study writes a method by its name, with values where they differ from the defaults: `late_phase_bn(K=5)`. A method
with METHOD in its name is made of another one, and of plain training where nothing is written: `swa`,
`swa(late_phase_bn(K=5))`, `deep_ensemble(late_phase_bn)`, `snapshot(swa)`. They compose freely.

Places in training, such as `start`, are an epoch where they are a whole number, and a part of all epochs where they are
a fraction: of 200 epochs, 0.6 is 120. The epoch where a method departs from plain training is T0.

Below, *values* are the range that `econ tune` searches ("search 2 to 20"), or else what is allowed. A hyperparameter
without either is not searched, and its type alone decides.
"""
SECTION = re.compile(r"^(\w[\w ]*):\s*$")
"""The head of a section of a docstring: `Args:`."""


def listing(*arguments: str, columns: int = 100) -> str:
    """Give what `econ list` prints, in lines of so many columns."""
    before, console.width = console.width, columns
    try:
        return CliRunner().invoke(app, ["list", *arguments], catch_exceptions=False).stdout.strip()
    finally:
        console.width = before


def sections(docstring: str) -> dict[str, str]:
    """Split a docstring into its text, under "", and its sections."""
    found, name = {"": ""}, ""
    for line in docstring.splitlines():
        head = SECTION.match(line)
        name = head[1] if head else name
        found[name] = found.get(name, "") + ("" if head else line + "\n")
    return {name: inspect.cleandoc(text) for name, text in found.items()}


def meanings(method: type[Method]) -> dict[str, str]:
    """Give what each hyperparameter means, from the constructors' docstrings, those of base classes last."""
    found: dict[str, str] = {}
    for cls in method.__mro__:
        init = vars(cls).get("__init__")
        arguments = sections(inspect.getdoc(init) or "").get("Args", "") if init and cls.__module__ != "torch" else ""
        for entry in re.split(r"\n(?=\S)", arguments):
            name, colon, text = entry.partition(":")
            if colon:
                found.setdefault(name.strip(), " ".join(text.split()))
    return found


def cell(text: str) -> str:
    """Write text so that it fits into a table's cell."""
    return text.replace("|", "\\|")


def hyperparameters(name: str, listed: str) -> Iterator[str]:
    """Write the table of a method's hyperparameters: default, range of the search or allowed words, meaning."""
    known = meanings(METHODS[name])
    rows = [re.match(r"    (\w+) *= (.+?)(?:   +(.*))?$", line) for line in listed.splitlines()[1:]]
    written = [row for row in rows if row]
    if not written:
        return
    yield from ("", "| hyperparameter | default | values | meaning |", "| --- | --- | --- | --- |")
    for row in written:
        key, default, values = row[1], row[2].strip(), row[3] or ""
        yield f"| `{key}` | `{default}` | {cell(values)} | {cell(known.get(key, ''))} |"


def section(name: str, row: list[str], listed: str) -> Iterator[str]:
    """Write what the page says of one method."""
    method = METHODS[name]
    parts = sections(inspect.getdoc(method) or "")
    family = f"*{method.about.family}*" + (f" · {method.about.paper}" if method.about.paper else "")
    yield from (f"## {name}", "", family, "", parts[""], "")
    yield from (f"Written `{row[0].strip('`')}` · training × {row[3]} · prediction × {row[4]}",)
    yield from hyperparameters(name, listed)
    if "References" in parts:
        yield from ("", "**Papers.** " + " ".join(parts["References"].split()))
    yield ""


def methods_page() -> str:
    """Write the page of the methods."""
    table = listing("methods", "--format", "markdown")
    cells = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]
    rows = {re.match(r"`(\w+)", each[0])[1]: each for each in cells if each}
    blocks = {re.match(r"\w+", block)[0]: block for block in listing("methods").split("\n\n")}
    lines = [HEAD, "## All methods", "", table, ""]
    for name in METHODS:
        lines += section(name, rows[name], blocks[name])
    return "\n".join(lines).rstrip() + "\n"


def study_tables() -> Iterator[str]:
    """Write a table of studies for each paper: what each shows, and what it costs."""
    text = listing("studies", columns=1000)
    listed = re.findall(r"^ *(\S+) {2,}(\S.*?) *\n +\[(.*)\] *$", text, re.MULTILINE)
    for folder, title in PAPERS.items():
        yield from ("", f"### {title}", "", "| study | what it shows | cost |", "| --- | --- | --- |")
        for name, shows, cost in listed:
            if name.startswith(f"{folder}/"):
                yield f"| `{name}` | {cell(shows)} | {cell(cost)} |"
    yield from ("", text.splitlines()[-1].strip(), "")


def studies_page() -> str:
    """Write the page of the papers' studies: its tables anew, the rest as it is."""
    head, rest = STUDIES_PAGE.read_text(encoding="utf-8").split(BEGIN)
    return head + BEGIN + "\n".join(study_tables()) + "\n" + END + rest.split(END)[1]


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def floors(package: str) -> list[Path]:
    """Return the folders of a package, top floor first, as the contracts of pyproject.toml order them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next((each["layers"] for each in contracts if each.get("containers") == [package]), [])
    order = [name.strip() for layer in layers for name in layer.split("|")]
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}

    def floor(folder: Path) -> tuple[int, str]:
        room = folder.relative_to(ROOT / package).parts
        return (order.index(room[0]) if room and room[0] in order else -1, folder.as_posix())

    return sorted(folders, key=floor)


def rooms() -> Iterator[str]:
    """Write each room with its files, and what each file is."""
    for package in ROOMS:
        yield from (f"### {package}", "")
        for folder in floors(package):
            files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
            name = folder.relative_to(ROOT).as_posix()
            yield from (f"**`{name}/`** {first_line(folder / '__init__.py')}", "")
            yield from (f"- `{path.name}`: {first_line(path)}" for path in files)
            yield ""


def architecture_page() -> str:
    """Write the page of the architecture: its map anew, the rest as it is."""
    head, rest = ARCHITECTURE_PAGE.read_text(encoding="utf-8").split(BEGIN_ROOMS)
    return head + BEGIN_ROOMS + "\n" + "\n".join(rooms()) + END_ROOMS + rest.split(END_ROOMS)[1]


PAGES = {METHODS_PAGE: methods_page, STUDIES_PAGE: studies_page, ARCHITECTURE_PAGE: architecture_page}

if __name__ == "__main__":
    for path, write in PAGES.items():
        path.write_text(write(), encoding="utf-8")
