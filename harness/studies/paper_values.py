"""A paper's own figures as a study holds them: a table of values, and what its rows and columns select."""

import re
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from harness.parsing.method_expression import closest
from methods.core.recipe import FrozenModel

VALUE = re.compile(r"(?P<mean>-?\d+(?:\.(?P<decimals>\d+))?)(?: ± (?P<misprint>0\.(?=\d+\.))?(?P<std>\d+(?:\.\d+)?))?")
"""A value as a paper writes it; a spread that is printed as "0.2.17" is read as 2.17."""
NONE = "–"
"""What stands in a table where the paper gives nothing."""


class Selection(FrozenModel):
    """Which figures of the study belong to a row or a column of the paper's table."""

    dataset: str | None = None
    architecture: str | None = None
    method: str | None = None
    """A label of the study; {row} and {column} in it are the names of the row and the column."""
    metric: str | None = None
    times: float | None = None
    """The factor between our unit and the paper's."""
    runs: Annotated[int, Field(ge=0)] | None = None
    """Over how many runs the paper's values are, where that is not the table's `seeds`; 0 where it is not stated."""


class Axis(FrozenModel):
    """A row or a column: its name in the paper, and what it selects."""

    name: str
    selects: Selection = Selection()

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        """Read a name alone, or one pair `name: selection`."""
        if isinstance(value, dict) and len(value) == 1:
            ((name, selects),) = value.items()
            return {"name": str(name), "selects": selects}
        if isinstance(value, dict | list) or value is None:
            raise ValueError("expected a name, or one pair name: {dataset: …, architecture: …, method: …, metric: …}")
        return {"name": str(value)}


class Note(FrozenModel):
    """What a reader of the paper's value must know."""

    row: str | None = None
    column: str | None = None
    text: str


def quoted(value: Any) -> Any:
    """Refuse a number, of which YAML drops a last zero: 96.70 would be 96.7."""
    if isinstance(value, int | float):
        raise ValueError(f"put {value} into quotes, as the paper writes it with all its digits")
    return value


class Paper(FrozenModel):
    """A table of a paper, or what its text states of a figure.

    Attributes:
        source: of the values.
        seeds: over how many runs the paper averages; a value without a spread is of one run, unless `spread` says more.
        spread: what the paper says of the spread of values without ±, all over `seeds` runs; "" where they are of one.
        rows: top to bottom; a name alone selects the method of that label.
        columns: left to right; a name alone selects nothing.
        select: what all rows and columns select, unless they say otherwise.
        values: a line a row, "MEAN ± STD" or "MEAN" as the paper has it, or "–".
        remark: what the whole table needs said.
    """

    source: str
    seeds: Annotated[int, Field(ge=1)]
    spread: str = ""
    rows: Annotated[tuple[Axis, ...], Field(min_length=1)]
    columns: Annotated[tuple[Axis, ...], Field(min_length=1)]
    select: Selection = Selection(metric="accuracy", times=1.0)
    values: tuple[tuple[Annotated[str, BeforeValidator(quoted)], ...], ...]
    notes: tuple[Note, ...] = ()
    remark: str = ""

    @model_validator(mode="after")
    def check(self) -> "Paper":
        """Refuse a table whose parts do not fit together."""
        for what, axes in (("rows", self.rows), ("columns", self.columns)):
            names = [axis.name for axis in axes]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two {what} have the name {', '.join(sorted(twice))}")
            for note in self.notes:
                named = getattr(note, what[:-1])
                if named is not None and named not in names:
                    raise ValueError(f"a note is on the {what[:-1]} {named!r}; {closest(named, names)}")
        if len(self.values) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows have {len(self.values)} lines of values")
        for row, line in zip(self.rows, self.values, strict=True):
            if len(line) != len(self.columns):
                raise ValueError(f"row {row.name}: {len(self.columns)} columns have {len(line)} values")
            for column, value in zip(self.columns, line, strict=True):
                try:
                    read_value(value)
                except ValueError as error:
                    raise ValueError(f"row {row.name}, column {column.name}: {error}") from error
        return self


class Stated(NamedTuple):
    """A value as the paper states it: its text, mean and spread (None for one run), and the decimals of the mean."""

    text: str
    mean: float
    std: float | None
    decimals: int


def read_value(text: str) -> Stated | None:
    """Read a value; None where there is none.

    Raises:
        ValueError: if it is neither.
    """
    if text == NONE:
        return None
    found = VALUE.fullmatch(text)
    if not found:
        raise ValueError(f"expected a value like '81.35 ± 0.16', or '{NONE}' for none, not {text!r}")
    std = found["std"]
    return Stated(text, float(found["mean"]), float(std) if std else None, len(found["decimals"] or ""))
