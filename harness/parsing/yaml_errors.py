"""Locations in a YAML file, and the errors found there."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

Location = tuple[str | int, ...]
"""The path to a value in a YAML file: mapping keys and list indices."""


class StudyError(Exception):
    """A study cannot be run. The message lists all errors with their locations."""


class Errors:
    """Collects the errors of one study file, each with its location.

    Attributes:
        messages: the errors in order of appearance, each with file, line and location.
        reasons: the same errors without locations.
        removed: locations of wrong values that `add_validation_errors` left out.
    """

    def __init__(self, path: Path, lines: "YamlLines") -> None:
        """Start without errors.

        Args:
            path: path of the file.
            lines: line numbers of the file's locations.
        """
        self.path, self.lines = path, lines
        self.messages: dict[str, None] = {}
        self.reasons: dict[str, None] = {}
        self.removed: set[Location] = set()

    def add(self, location: Location, message: str) -> None:
        """Add an error. A repeated error is added once."""
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        line = self.lines.line_of(location)
        self.reasons[message] = None
        self.messages[f"{self.path}:{line}: {name}: {message}" if name else f"{self.path}: {message}"] = None

    def for_part(self, location: Location, own: Collection[str]) -> "Errors":
        """Return a collector for a part of the file, such as one grid.

        A part inherits the keys that it does not contain from the top level of the file.

        Args:
            location: location of the part.
            own: keys that the part contains.
        """
        return PartErrors(self, location, own)

    def original_index(self, field: str, i: int) -> int:
        """Return the index in the file of a list item, counting the items that `add_validation_errors` removed.

        Args:
            field: key of the list.
            i: index of the item among those that are left.
        """
        left = (n for n in count() if (field, n) not in self.removed)
        return next(islice(left, i, None))

    def add_validation_errors(self, raw: dict[str, Any], error: ValidationError, at: Location = ()) -> dict[str, Any]:
        """Add the errors of a pydantic validation.

        Args:
            raw: the validated values.
            error: the error that pydantic raised.
            at: location of `raw` in the file.

        Returns:
            `raw` without the wrong parts.
        """
        messages: dict[Location, list[str]] = {}
        for detail in error.errors():
            field = [name for key, name in detail.get("ctx", {}).items() if key == "field"]  # of `CheckedModel`
            location = existing_location(raw, (*detail["loc"], *field))
            message = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "missing":
                message = f"{detail['loc'][-1]!r} is missing"
            elif detail["type"] == "extra_forbidden":
                message = "unknown key"
            messages.setdefault(location, []).append(message)
        for location, reasons in messages.items():
            self.add((*at, *location), "; or ".join(dict.fromkeys(reasons)))
            self.removed.add((*at, *location))
        return remove_locations(raw, list(messages))

    def add_repeated_keys(self) -> None:
        """Add an error for each key that is written twice. YAML itself would keep only the last value."""
        for location in self.lines.repeated:
            self.add(location, "this key is written twice")

    def raise_if_any(self) -> None:
        """Raise `StudyError` if there is any error."""
        if self.messages:
            total = "1 error" if len(self.messages) == 1 else f"{len(self.messages)} errors"
            raise StudyError(
                f"{total} in the study; nothing was started\n" + "\n".join(f"  {e}" for e in self.messages)
            )


class PartErrors(Errors):
    """Collects the errors of a part of a study file, which inherits missing keys from the top level."""

    def __init__(self, whole: Errors, location: Location, own: Collection[str]) -> None:
        """Share the errors of the whole file.

        Args:
            whole: errors of the whole file.
            location: location of the part.
            own: keys that the part contains.
        """
        self.path, self.lines, self.messages, self.reasons = whole.path, whole.lines, whole.messages, whole.reasons
        self.removed = set()
        self.location, self.own = location, own

    def add(self, location: Location, message: str) -> None:
        """Add an error at its location in the whole file."""
        super().add((*self.location, *location) if not location or location[0] in self.own else location, message)


class YamlLines:
    """The line number of every location in a YAML text."""

    def __init__(self, text: str, root: yaml.Node | None = None) -> None:
        """Record all lines.

        Args:
            text: the text.
            root: the root of its nodes, if it has been parsed already.
        """
        self.lines: dict[Location, int] = {}
        self.repeated: list[Location] = []
        self.walked: set[int] = set()
        root = root or yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            self.walk(root, ())

    def walk(self, node: yaml.Node, location: Location) -> None:
        """Record the lines of a node and its children. A node is walked once, because aliases can repeat it."""
        self.lines.setdefault(location, node.start_mark.line + 1)
        if id(node) in self.walked:
            return
        self.walked.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.walk(item, (*location, i))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inside = (*location, str(key.value))
                if inside in self.lines:
                    self.repeated.append(inside)
                self.lines[inside] = key.start_mark.line + 1
                self.walk(value, inside)

    def line_of(self, location: Location) -> int:
        """Return the line of a location, or of the closest known parent location."""
        known = tuple(location)
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)


def existing_location(raw: Any, location: Sequence[str | int]) -> Location:
    """Return the part of a pydantic location that exists in the file."""
    existing: list[str | int] = []
    for part in location:
        if (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        ):
            raw = raw[part]  # type: ignore[index]
            existing.append(part)
    return tuple(existing)


def remove_locations(raw: dict[str, Any], locations: Sequence[Location]) -> dict[str, Any]:
    """Copy a tree of YAML values without the values at some locations."""
    raw = deepcopy(raw)
    for location in sorted(filter(None, locations), key=location_sort_key, reverse=True):
        parent: Any = raw
        for part in location[:-1]:
            parent = parent[part] if existing_location(parent, [part]) else None
        if existing_location(parent, [location[-1]]):
            del parent[location[-1]]
    return raw


def location_sort_key(location: Location) -> list[tuple[bool, int, str]]:
    """Return a sort key of a location that orders list items by their index."""
    return [(isinstance(part, int), part if isinstance(part, int) else 0, str(part)) for part in location]


def suggest_closest(name: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """Write a hint for an unknown name: the most similar known name, and the list of known names.

    Args:
        name: the unknown name.
        known: all known names.
        listed: the known names to list; None for all.
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    shown = names if listed is None else sorted(set(listed))
    return (f"did you mean {near[0]!r}? " if near else "") + f"there are {', '.join(shown)}"
