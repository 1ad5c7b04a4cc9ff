"""The places of a YAML file, and the errors found at them."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

Location = tuple[str | int, ...]


class StudyError(Exception):
    """A study that cannot be run; the message lists every error with its place."""


class Errors:
    """The errors of one study file, each with its place."""

    def __init__(self, path: Path, lines: "YamlLines") -> None:
        """Start with none."""
        self.path, self.lines = path, lines
        self.messages: dict[str, None] = {}
        self.reasons: dict[str, None] = {}  # the same without their locations
        self.removed: set[Location] = set()

    def add(self, location: Location, message: str) -> None:
        """Add an error, once."""
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
        line = self.lines.line_of(location)
        self.reasons[message] = None
        self.messages[f"{self.path}:{line}: {name}: {message}" if name else f"{self.path}: {message}"] = None

    def for_part(self, location: Location, own: Collection[str]) -> "Errors":
        """Give the errors of a part of the file whose other keys are those of the file itself.

        Args:
            location: of the part.
            own: its own keys.
        """
        return PartErrors(self, location, own)

    def original_index(self, field: str, i: int) -> int:
        """Give the place in the file of the i-th item of a list that is left after `report`."""
        left = (n for n in count() if (field, n) not in self.removed)
        return next(islice(left, i, None))

    def add_validation_errors(self, raw: dict[str, Any], error: ValidationError, at: Location = ()) -> dict[str, Any]:
        """Add what pydantic found wrong with `raw`, which stands at the place `at`.

        Returns:
            `raw` without the parts that are wrong.
        """
        messages: dict[Location, list[str]] = {}
        for detail in error.errors():
            location = existing_location(raw, detail["loc"])
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
        """Report keys written twice, of which YAML would keep only the last."""
        for location in self.lines.repeated:
            self.add(location, "this key is written twice")

    def raise_if_any(self) -> None:
        """Raise `StudyError` if there was any error."""
        if self.messages:
            total = "1 error" if len(self.messages) == 1 else f"{len(self.messages)} errors"
            raise StudyError(
                f"{total} in the study; nothing was started\n" + "\n".join(f"  {e}" for e in self.messages)
            )


class PartErrors(Errors):
    """The errors of a part of a study file, which takes the keys that it does not have from the file."""

    def __init__(self, whole: Errors, location: Location, own: Collection[str]) -> None:
        """Start with those of the whole file."""
        self.path, self.lines, self.messages, self.reasons = whole.path, whole.lines, whole.messages, whole.reasons
        self.removed = set()
        self.location, self.own = location, own

    def add(self, location: Location, message: str) -> None:
        """Add an error at its place in the whole file, once."""
        super().add((*self.location, *location) if not location or location[0] in self.own else location, message)


class YamlLines:
    """The line of every place in a YAML text."""

    def __init__(self, text: str) -> None:
        """Read the places."""
        self.lines: dict[Location, int] = {}
        self.repeated: list[Location] = []
        self.walked: set[int] = set()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            self.walk(root, ())

    def walk(self, node: yaml.Node, location: Location) -> None:
        """Note a node's line and its children's, once: an alias repeats a node, even inside of itself."""
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
        """Give the line of a place, or of the nearest one around it."""
        known = tuple(location)
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)


def existing_location(raw: Any, location: Sequence[str | int]) -> Location:
    """Keep of a pydantic location the parts that are places in the file."""
    location: list[str | int] = []
    for part in location:
        if (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        ):
            raw = raw[part]  # type: ignore[index]
            location.append(part)
    return tuple(location)


def remove_locations(raw: dict[str, Any], locations: Sequence[Location]) -> dict[str, Any]:
    """Copy a tree of YAML values, leaving out some places (the last item of a list first)."""
    raw = deepcopy(raw)
    for location in sorted(filter(None, locations), key=location_sort_key, reverse=True):
        parent: Any = raw
        for part in location[:-1]:
            parent = parent[part] if existing_location(parent, [part]) else None
        if existing_location(parent, [location[-1]]):
            del parent[location[-1]]
    return raw


def location_sort_key(location: Location) -> list[tuple[bool, int, str]]:
    """Sort places with list items by their number."""
    return [(isinstance(part, int), part if isinstance(part, int) else 0, str(part)) for part in location]
