"""Finds study files, and names the studies that come with the project."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.parsing.yaml_errors import StudyError, suggest_closest
from harness.parsing.yaml_file import is_file
from harness.store.damaged_files import read_json
from harness.store.run_folder import write_atomically

STUDIES = Path(__file__).parent
RECORD = ".studies.json"
"""The file in a folder of results that says which study file the results of each name are of."""


def find_study(name: str) -> Path:
    """Return the path of a study.

    Args:
        name: name of a study that comes with the project, or the path of a .yaml file.

    Raises:
        StudyError: if there is no such study.
    """
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        if not is_file(path):
            raise StudyError(f"study {name}: no such file")
        return path
    path = STUDIES / f"{name}.yaml"
    if not name or not is_file(path):
        raise StudyError(f"unknown study {name!r}; {suggest_studies(name)}, or give the path of a .yaml file")
    return path


def suggest_studies(name: str) -> str:
    """Write a hint for an unknown study name. A name without its folder is looked up in all folders."""
    known = study_names()
    inside = [each for each in known if each.endswith(f"/{name}")]
    if not inside:
        return suggest_closest(name, known)
    return f"did you mean {' or '.join(map(repr, inside))}? there are {', '.join(known)}"


def study_names() -> list[str]:
    """List the studies that come with the project, sorted by name, numbers by value."""
    found = [path.relative_to(STUDIES).with_suffix("").as_posix() for path in STUDIES.rglob("*.yaml")]
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def study_name(path: Path) -> str:
    """Return the name of a study file: as in `study_names` if it comes with the project, else the file's stem."""
    inside = path.is_relative_to(STUDIES)
    return (path.relative_to(STUDIES).with_suffix("") if inside else Path(path.stem)).as_posix()


def path_from(folder: Path, study: Path) -> str:
    """Return the path of a study file as seen from a folder, so that both can be moved together."""
    return Path(os.path.relpath(study.resolve(), folder.resolve())).as_posix()


def check_same_study(folder: Path, recorded: str, study: Path, what: str) -> None:
    """Refuse to replace what belongs to another study file of the same name.

    Args:
        folder: the folder in which it lies.
        recorded: what `path_from` returned for its study file; "" if nothing was recorded.
        study: the study file that is to replace it.
        what: what it is, for the message.

    Raises:
        StudyError: if the recorded file is another one, and still there.
    """
    other = folder / recorded
    if recorded and is_file(other) and other.resolve() != study.resolve():
        raise StudyError(
            f"{what} of another study of this name, {os.path.relpath(other.resolve())}: give --output, or rename one"
        )


@contextmanager
def own_results(folder: Path, name: str, study: Path) -> Iterator[None]:
    """Write results of a study inside a `with` block, unless another study of its name has written them before.

    Args:
        folder: the folder of all results.
        name: the name of the study's results in it.
        study: the study file.

    Raises:
        StudyError: if the results are those of another study file, which is still there.
    """
    path = folder / RECORD
    check_same_study(folder, str(read_json(path).get(name, "")), study, f"{folder / name} holds the results")
    try:
        yield
    finally:
        if folder.is_dir():
            text = json.dumps(read_json(path) | {name: path_from(folder, study)}, indent=2) + "\n"
            write_atomically(path, lambda file: file.write(text.encode()))
