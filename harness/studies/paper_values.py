"""The published values that a study contains: a table of a paper, and which cells its rows and columns select."""

import re
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from harness.parsing.yaml_errors import suggest_closest
from methods.core.recipe import FrozenModel

VALUE_PATTERN = re.compile(
    r"(?P<mean>-?\d+(?:\.(?P<decimals>\d+))?)(?: ± (?P<misprint>0\.(?=\d+\.))?(?P<std>\d+(?:\.\d+)?))?"
)
"""A value as a paper prints it. A spread that is misprinted as "0.2.17" is read as 2.17."""
NO_VALUE = "–"
"""The entry of a table for which the paper gives no value."""


class Selection(FrozenModel):
    """Selects the cells and the metric for a row or a column of the paper's table."""

    dataset: str | None = None
    architecture: str | None = None
    method: str | None = None
    """A label of the study. {row} and {column} are replaced by the names of the row and the column."""
    metric: str | None = None
    times: float | None = None
    """The factor between the study's unit and the paper's unit."""
    runs: Annotated[int, Field(ge=0)] | None = None
    """Number of runs behind the paper's values; None for the table's `seeds`, 0 if the paper does not state it."""


class Axis(FrozenModel):
    """A row or a column: its name in the paper, and its selection."""

    name: str
    selects: Selection = Selection()

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        """Accept a name alone, or one pair `name: selection`."""
        if isinstance(value, dict) and len(value) == 1:
            ((name, selects),) = value.items()
            return {"name": str(name), "selects": selects}
        if isinstance(value, dict | list) or value is None:
            raise ValueError("expected a name, or one pair name: {dataset: …, architecture: …, method: …, metric: …}")
        return {"name": str(value)}


class Note(FrozenModel):
    """A remark on the values of a row, a column or both; on all values if neither is given."""

    row: str | None = None
    column: str | None = None
    text: str


def check_quoted(value: Any) -> Any:
    """Refuse an unquoted number, because YAML drops trailing zeros: 96.70 would become 96.7."""
    if isinstance(value, int | float):
        raise ValueError(f"put {value} into quotes, as the paper writes it with all its digits")
    return value


class Paper(FrozenModel):
    """A table of a paper, or the values that its text states.

    Attributes:
        source: where in the paper the values are.
        seeds: number of runs that the paper averages. A value without ± is from one run, unless `spread` is given.
        spread: the paper's statement on the spread of values without ±, which then are from `seeds` runs; "" if they
            are from one run.
        rows: rows from top to bottom. A name alone selects the method with that label.
        columns: columns from left to right. A name alone selects nothing.
        select: the selection of all rows and columns, which they can override.
        values: one line a row, each value "MEAN ± STD" or "MEAN" as printed in the paper, or "–".
        notes: remarks on single values, rows or columns.
        remark: remark on the whole table.
    """

    source: str
    seeds: Annotated[int, Field(ge=1)]
    spread: str = ""
    rows: Annotated[tuple[Axis, ...], Field(min_length=1)]
    columns: Annotated[tuple[Axis, ...], Field(min_length=1)]
    select: Selection = Selection(metric="accuracy", times=1.0)
    values: tuple[tuple[Annotated[str, BeforeValidator(check_quoted)], ...], ...]
    notes: tuple[Note, ...] = ()
    remark: str = ""

    @model_validator(mode="after")
    def check(self) -> "Paper":
        """Check that rows, columns, values and notes are consistent."""
        for what, axes in (("rows", self.rows), ("columns", self.columns)):
            names = [axis.name for axis in axes]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two {what} have the name {', '.join(sorted(twice))}")
            for note in self.notes:
                named = getattr(note, what[:-1])
                if named is not None and named not in names:
                    raise ValueError(f"a note is on the {what[:-1]} {named!r}; {suggest_closest(named, names)}")
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


class PublishedValue(NamedTuple):
    """A value as printed in the paper.

    Attributes:
        text: the printed text.
        mean: the mean.
        std: the spread; None for one run.
        decimals: number of decimals of the mean.
    """

    text: str
    mean: float
    std: float | None
    decimals: int


def read_value(text: str) -> PublishedValue | None:
    """Parse a value such as "81.35 ± 0.16"; None for "–".

    Raises:
        ValueError: if the text is neither.
    """
    if text == NO_VALUE:
        return None
    found = VALUE_PATTERN.fullmatch(text)
    if not found:
        raise ValueError(f"expected a value like '81.35 ± 0.16', or '{NO_VALUE}' for none, not {text!r}")
    std = found["std"]
    return PublishedValue(text, float(found["mean"]), float(std) if std else None, len(found["decimals"] or ""))
