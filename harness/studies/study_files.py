"""Where studies are: the files of those that come with the project, and their names."""

import re
from pathlib import Path

from harness.parsing.method_expression import suggest_closest
from harness.parsing.yaml_errors import StudyError

STUDIES = Path(__file__).parent


def find_study(name: str) -> Path:
    """Find a study by its name among those that come with the project, or by its path.

    Raises:
        StudyError: if there is none.
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
    """Name the studies that there are, the likeliest first; of a name without its folder, those of any folder."""
    known = study_names()
    inside = [each for each in known if each.endswith(f"/{name}")]
    if not inside:
        return suggest_closest(name, known)
    return f"did you mean {' or '.join(map(repr, inside))}? there are {', '.join(known)}"


def study_names() -> list[str]:
    """List the studies that come with the project, numbers in their names in order."""
    found = [path.relative_to(STUDIES).with_suffix("").as_posix() for path in STUDIES.rglob("*.yaml")]
    return sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def study_name(path: Path) -> str:
    """Name a study by its file: one that comes with the project as `names` does, another without its folder."""
    inside = path.is_relative_to(STUDIES)
    return (path.relative_to(STUDIES).with_suffix("") if inside else Path(path.stem)).as_posix()
