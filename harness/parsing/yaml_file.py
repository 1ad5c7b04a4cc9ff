"""Reads YAML files that users write: plain values only, no more of them than a person writes, each with its line."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError

from harness.parsing.yaml_errors import StudyError, YamlLines

MOST_BYTES = 500_000
MOST_VALUES = 20_000
"""Largest number of values in a file. What an alias repeats counts each time."""
MOST_LEVELS = 50
"""Largest number of lists and mappings inside of each other."""
MOST_DIGITS = 18
"""Largest number of digits of a whole number."""
WHOLE_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which could write anything to a terminal, and halves of characters, which no file can hold."""


class PlainLoader(yaml.SafeLoader):
    """Reads null, booleans, numbers, texts, lists, and mappings whose keys are texts as written.

    What else YAML 1.1 sees in plain text is a text here: dates, times (12:30) and octal numbers (010).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; its keys are texts, as written.

        Raises:
            ConstructorError: for a key that is empty, or no text.
        """
        self.flatten_mapping(node)
        found: dict[Hashable, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:null":
                raise ConstructorError(None, None, "a key must be a text", key.start_mark)
            found[str(key.value)] = self.construct_object(value, deep=True)
        return found

    def construct_number(self, node: yaml.ScalarNode) -> int:
        """Return a whole number.

        Raises:
            ConstructorError: for one without digits, such as 0x_.
        """
        try:
            return int(self.construct_yaml_int(node))
        except ValueError as error:
            raise ConstructorError(None, None, f"{node.value} is no whole number", node.start_mark) from error


PlainLoader.add_constructor("tag:yaml.org,2002:int", PlainLoader.construct_number)
PlainLoader.yaml_implicit_resolvers = {}
for name, pattern, first in (
    ("bool", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", WHOLE_NUMBER.pattern, "-+0123456789"),
    ("float", r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"(?:{pattern})$"), list(first))


class YamlFile(NamedTuple):
    """A YAML file.

    Attributes:
        text: its text.
        values: what it says.
        lines: the line of each value.
    """

    text: str
    values: Any
    lines: YamlLines


def is_file(path: Path) -> bool:
    """Return whether there is a file; no file has a name that the system refuses, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file.

    Raises:
        StudyError: if it cannot be read, is no YAML, or holds what no study needs; it names the file and the line.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise StudyError(f"{path}: has {size:,} bytes, and at most {MOST_BYTES:,} are read; divide it")
        text = path.read_text(encoding="utf-8")
        if problem := find_problem(text):
            raise StudyError(f"{path}:{problem}")
        loader = PlainLoader(text)
        root = loader.get_single_node()
        lines = YamlLines(text, root)  # before merges, which change the nodes
        return YamlFile(text, None if root is None else loader.construct_document(root), lines)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {error}") from error
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from error


def find_problem(text: str) -> str:
    """Return the line and the description of the first thing in a YAML text that no study needs; "" if there is none.

    Nothing is built meanwhile, so that a text which would be enormous or too deep is refused at once.

    Raises:
        YAMLError: if it is no YAML.
    """
    sizes: dict[str, int] = {}  # of what each anchor names, in values
    inside: list[tuple[str | None, int]] = []  # the anchor of each open list or mapping, and the values before it
    values = 0
    for event in yaml.parse(text, Loader=PlainLoader):
        problem = ""
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if name not in sizes:
                problem = f"*{name} stands for nothing that was written before it"
            values += sizes.get(name, 0)
        elif isinstance(event, yaml.NodeEvent):
            problem = node_problem(event)
            if isinstance(event, yaml.CollectionStartEvent):
                inside.append((event.anchor, values))
            elif event.anchor:
                sizes[event.anchor] = 1
            values += 1
        if values > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, with those that aliases repeat; divide the file"
        if len(inside) > MOST_LEVELS:
            problem = f"more than {MOST_LEVELS} lists or mappings inside of each other"
        if problem:
            assert event.start_mark is not None
            return f"{event.start_mark.line + 1}: {problem}"
    return ""


def node_problem(event: yaml.NodeEvent) -> str:
    """Return what is wrong with a value by itself; "" if nothing is."""
    if tag := getattr(event, "tag", None):
        return f"the tag {tag.replace('tag:yaml.org,2002:', '!!')}: only plain values are read; leave it out"
    if not isinstance(event, yaml.ScalarEvent):
        return ""
    if found := UNPRINTABLE.search(event.value):
        return f"the character U+{ord(found[0]):04X} in a text; leave it out"
    digits = len(event.value.lstrip("+-"))
    if event.implicit[0] and digits > MOST_DIGITS and WHOLE_NUMBER.fullmatch(event.value):
        return f"a number of {digits:,} digits; it may have {MOST_DIGITS}"
    return ""
