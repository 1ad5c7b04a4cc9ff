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

    def __init__(self, path: Path, lines: "Lines") -> None:
        """Start with none."""
        self.path, self.lines = path, lines
        self.found: dict[str, None] = {}
        self.reasons: dict[str, None] = {}  # the same without their places
        self.gone: set[Location] = set()

    def add(self, place: Location, message: str) -> None:
        """Add an error, once."""
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        line = self.lines.of(place)
        self.reasons[message] = None
        self.found[f"{self.path}:{line}: {name}: {message}" if name else f"{self.path}: {message}"] = None

    def inside(self, place: Location, own: Collection[str]) -> "Errors":
        """Give the errors of a part of the file whose other keys are those of the file itself.

        Args:
            place: of the part.
            own: its own keys.
        """
        return PartErrors(self, place, own)

    def index(self, field: str, i: int) -> int:
        """Give the place in the file of the i-th item of a list that is left after `report`."""
        left = (n for n in count() if (field, n) not in self.gone)
        return next(islice(left, i, None))

    def report(self, raw: dict[str, Any], error: ValidationError, at: Location = ()) -> dict[str, Any]:
        """Add what pydantic found wrong with `raw`, which stands at the place `at`.

        Returns:
            `raw` without the parts that are wrong.
        """
        messages: dict[Location, list[str]] = {}
        for detail in error.errors():
            place = place_in(raw, detail["loc"])
            message = detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "missing":
                message = f"{detail['loc'][-1]!r} is missing"
            elif detail["type"] == "extra_forbidden":
                message = "unknown key"
            messages.setdefault(place, []).append(message)
        for place, reasons in messages.items():
            self.add((*at, *place), "; or ".join(dict.fromkeys(reasons)))
            self.gone.add((*at, *place))
        return without(raw, list(messages))

    def repeated_keys(self) -> None:
        """Report keys written twice, of which YAML would keep only the last."""
        for place in self.lines.repeated:
            self.add(place, "this key is written twice")

    def raise_any(self) -> None:
        """Raise `StudyError` if there was any error."""
        if self.found:
            total = "1 error" if len(self.found) == 1 else f"{len(self.found)} errors"
            raise StudyError(f"{total} in the study; nothing was started\n" + "\n".join(f"  {e}" for e in self.found))


class PartErrors(Errors):
    """The errors of a part of a study file, which takes the keys that it does not have from the file."""

    def __init__(self, whole: Errors, place: Location, own: Collection[str]) -> None:
        """Start with those of the whole file."""
        self.path, self.lines, self.found, self.reasons = whole.path, whole.lines, whole.found, whole.reasons
        self.gone = set()
        self.place, self.own = place, own

    def add(self, place: Location, message: str) -> None:
        """Add an error at its place in the whole file, once."""
        super().add((*self.place, *place) if not place or place[0] in self.own else place, message)


class Lines:
    """The line of every place in a YAML text."""

    def __init__(self, text: str) -> None:
        """Read the places."""
        self.lines: dict[Location, int] = {}
        self.repeated: list[Location] = []
        self.walked: set[int] = set()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            self.walk(root, ())

    def walk(self, node: yaml.Node, place: Location) -> None:
        """Note a node's line and its children's, once: an alias repeats a node, even inside of itself."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self.walked:
            return
        self.walked.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.walk(item, (*place, i))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inside = (*place, str(key.value))
                if inside in self.lines:
                    self.repeated.append(inside)
                self.lines[inside] = key.start_mark.line + 1
                self.walk(value, inside)

    def of(self, place: Location) -> int:
        """Give the line of a place, or of the nearest one around it."""
        known = tuple(place)
        while known and known not in self.lines:
            known = known[:-1]
        return self.lines.get(known, 1)


def place_in(raw: Any, location: Sequence[str | int]) -> Location:
    """Keep of a pydantic location the parts that are places in the file."""
    place: list[str | int] = []
    for part in location:
        if (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        ):
            raw = raw[part]  # type: ignore[index]
            place.append(part)
    return tuple(place)


def without(raw: dict[str, Any], places: Sequence[Location]) -> dict[str, Any]:
    """Copy a tree of YAML values, leaving out some places (the last item of a list first)."""
    raw = deepcopy(raw)
    for place in sorted(filter(None, places), key=order, reverse=True):
        parent: Any = raw
        for part in place[:-1]:
            parent = parent[part] if place_in(parent, [part]) else None
        if place_in(parent, [place[-1]]):
            del parent[place[-1]]
    return raw


def order(place: Location) -> list[tuple[bool, int, str]]:
    """Sort places with list items by their number."""
    return [(isinstance(part, int), part if isinstance(part, int) else 0, str(part)) for part in place]
