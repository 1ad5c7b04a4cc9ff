"""Finds study files, and names the studies that come with the project."""

import re
from pathlib import Path

from harness.parsing.yaml_errors import StudyError, suggest_closest

STUDIES = Path(__file__).parent


def find_study(name: str) -> Path:
    """Return the path of a study.

    Args:
        name: name of a study that comes with the project, or the path of a .yaml file.

    Raises:
        StudyError: if there is no such study.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise StudyError(f"study {name}: no such file")
        return path
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
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
