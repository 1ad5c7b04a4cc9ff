"""Tests of locations and errors in YAML files."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from harness.parsing.yaml_errors import Errors, StudyError, YamlLines, existing_location, remove_locations

TEXT = """\
# a comment
datasets: [digits,
  {name: npz:x.npz, train_size: 3}]

recipe:
  lr: 0.1
  schedule:
    kind: step
    milestones: [1,
                 2]
methods:
  - sgd
  - mine: swa(start=1)
recipe:
  lr: 0.2
  lr: 0.3
"""


def test_every_location_has_its_line():
    lines = YamlLines(TEXT)
    found = {
        (): 2,
        ("datasets",): 2,
        ("datasets", 0): 2,
        ("datasets", 1): 3,
        ("datasets", 1, "train_size"): 3,
        ("recipe", "schedule"): 7,
        ("recipe", "schedule", "milestones", 1): 10,
        ("methods", 0): 12,
        ("methods", 1, "mine"): 13,
        ("recipe",): 14,
    }
    assert {place: lines.line_of(place) for place in found} == found


def test_an_unknown_location_has_the_line_of_its_parent():
    lines = YamlLines(TEXT)
    assert lines.line_of(("methods", 7, "x")) == 11
    assert lines.line_of(("recipe", "schedule", "kind", "deeper")) == 8
    assert lines.line_of(("nowhere",)) == 2


def test_repeated_keys_are_found_at_any_depth():
    assert YamlLines(TEXT).repeated == [("recipe",), ("recipe", "lr"), ("recipe", "lr")]
    errors = Errors(Path("s.yaml"), YamlLines("a: 1\nb: {c: 1, c: 2}\na: 2\n"))
    errors.add_repeated_keys()
    assert list(errors.messages) == [
        "s.yaml:2: b.c: this key is written twice",
        "s.yaml:3: a: this key is written twice",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_text_has_only_its_first_line(text):
    assert YamlLines(text).line_of(("recipe", "lr")) == 1


def test_a_list_that_holds_itself_is_walked_once():
    lines = YamlLines("a: &x\n  - *x\n  - 1\n")
    assert lines.line_of(("a", 1)) == 3


class Inner(BaseModel, extra="forbid"):
    x: int
    y: list[int] = []


class Outer(BaseModel, extra="forbid"):
    inner: Inner | str
    need: int


def test_errors_are_reported_once_a_location_and_removed():
    text = "inner: {x: a, y: [1, b, 2, c], z: 1}\n"
    raw = yaml.safe_load(text)
    errors = Errors(Path("s.yaml"), YamlLines(text))
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(raw)
    left = errors.add_validation_errors(raw, caught.value)
    found = list(errors.messages)
    assert found[0].startswith("s.yaml:1: inner.x: Input should be a valid integer")
    assert [line.split(": ")[1] for line in found if "[" in line] == ["inner.y[1]", "inner.y[3]"]
    assert "s.yaml:1: inner.z: unknown key" in found
    assert "s.yaml: 'need' is missing" in found
    assert raw == yaml.safe_load(text), "the original stays"
    assert left == {}, "the second meaning of `inner` was wrong too, as a whole"


def test_without_leaves_the_other_items_of_a_list_alone():
    raw = {"a": [0, 1, {"b": 2, "c": 3}, 3], "d": 4}
    assert remove_locations(raw, [("a", 0), ("a", 2, "b"), ("a", 3), ("nowhere", 1), ()]) == {
        "a": [1, {"c": 3}],
        "d": 4,
    }
    assert remove_locations({"a": list(range(12))}, [("a", 2), ("a", 10), ("a", 9)]) == {
        "a": [0, 1, 3, 4, 5, 6, 7, 8, 11]
    }


def test_existing_location_skips_parts_that_are_not_in_the_file():
    raw = {"methods": [{"mine": "swa"}]}
    assert existing_location(raw, ("methods", 0, "function-before", "mine")) == ("methods", 0, "mine")
    assert existing_location(raw, ("methods", 3, "label")) == ("methods",)


def test_raise_any():
    errors = Errors(Path("s.yaml"), YamlLines("a: 1\nb: 2\n"))
    errors.raise_if_any()
    errors.add(("b",), "wrong")
    errors.add(("b",), "wrong")
    with pytest.raises(StudyError, match=r"^1 error in the study; nothing was started\n  s.yaml:2: b: wrong$"):
        errors.raise_if_any()
    errors.add((), "missing")
    with pytest.raises(StudyError, match=r"^2 errors in the study; nothing was started\n"):
        errors.raise_if_any()
