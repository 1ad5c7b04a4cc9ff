"""A paper's own figures as a study holds them: a table of values, and which cells of the study each stands beside."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from harness.expression import closest
from harness.grid import Place
from harness.places import Errors
from methods.recipe import Part

if TYPE_CHECKING:
    import pandas as pd

VALUE = re.compile(r"(?P<mean>-?\d+(?:\.(?P<decimals>\d+))?)(?: ± (?P<misprint>0\.(?=\d+\.))?(?P<std>\d+(?:\.\d+)?))?")
"""A value as a paper writes it; a spread that is printed as "0.2.17" is read as 2.17."""
NONE = "–"
"""What stands in a table where the paper gives nothing."""


class Selection(Part):
    """Which figures of the study belong to a row or a column of the paper's table."""

    dataset: str | None = None
    architecture: str | None = None
    method: str | None = None
    """A label of the study; {row} and {column} in it are the names of the row and the column."""
    metric: str | None = None
    times: float | None = None
    """The factor between our unit and the paper's."""


class Axis(Part):
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


class Note(Part):
    """What a reader of the paper's value must know."""

    row: str | None = None
    column: str | None = None
    text: str


def quoted(value: Any) -> Any:
    """Refuse a number, of which YAML drops a last zero: 96.70 would be 96.7."""
    if isinstance(value, int | float):
        raise ValueError(f"put {value} into quotes, as the paper writes it with all its digits")
    return value


class Paper(Part):
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


class Beside(NamedTuple):
    """A value of the paper, and the figures of the study that stand beside it.

    Attributes:
        row: its name in the paper's table; so is `column`.
        place: the number of the cells' place in the study; None where it cannot run what the paper did, as a note says.
        metric: of these cells.
        times: the factor between our unit and the paper's.
        stated: what the paper states; None for nothing.
        seeds: of the paper's value.
        notes: what a reader must know.
    """

    row: str
    column: str
    place: int | None
    metric: str
    times: float
    stated: Stated | None
    seeds: int
    notes: tuple[str, ...]


NOT_RUN = "none"
"""What a row selects as its method if the study cannot run it: a value that the paper quotes from elsewhere."""


def match(paper: Paper, places: Sequence[Place]) -> list[Beside]:
    """Find for each value of a paper's table the cells of a study that it stands beside.

    Raises:
        ValueError: if there are none, or if several cells fit, naming the row and the column.
    """
    found = []
    for row, line in zip(paper.rows, paper.values, strict=True):
        for column, value in zip(paper.columns, line, strict=True):
            selects = selection(paper, row, column)
            stated = read_value(value)
            try:
                place = find(selects, places)
            except ValueError as error:
                if stated:
                    raise ValueError(f"row {row.name}, column {column.name}: {error}") from error
                place = None  # nothing stands beside nothing
            notes = tuple(
                note.text for note in paper.notes if note.row in (None, row.name) and note.column in (None, column.name)
            )
            seeds = paper.seeds if (stated and stated.std is not None) or paper.spread else 1
            metric, times = str(selects["metric"]), float(selects["times"])
            found.append(Beside(row.name, column.name, place, metric, times, stated, seeds, notes))
    return found


def selection(paper: Paper, row: Axis, column: Axis) -> dict[str, Any]:
    """Put together what a row and a column select; the column's words count before the row's."""
    usual = {"metric": "accuracy", "times": 1.0}
    by_name = {} if row.selects.method or column.selects.method or paper.select.method else {"method": row.name}
    parts = [each.model_dump(exclude_none=True) for each in (paper.select, row.selects, column.selects)]
    selects = usual | by_name | parts[0] | parts[1] | parts[2]
    method = str(selects["method"]).replace("{row}", row.name).replace("{column}", column.name)
    return selects | {"method": method}


def find(selects: Mapping[str, Any], places: Sequence[Place]) -> int | None:
    """Find the number of the one place in a study that a selection means.

    Raises:
        ValueError: if there is none, or more than one.
    """
    if selects["method"] == NOT_RUN:
        return None
    fitting = [
        i
        for i, place in enumerate(places)
        if place.entry.label == selects["method"] and selects.get("architecture") in (None, place.architecture)
    ]
    if dataset := selects.get("dataset"):
        exactly = [i for i in fitting if places[i].dataset.label == dataset]
        fitting = exactly or [i for i in fitting if places[i].dataset.name == dataset]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"it means {' and '.join(' · '.join(places[i].name) for i in fitting)}: say which")
    wanted = " · ".join(str(selects[key]) for key in ("dataset", "architecture", "method") if key in selects)
    raise ValueError(f"the study has no {wanted!r}; {closest(wanted, [' · '.join(p.name) for p in places])}")


def check_paper(raw: Any, places: Sequence[Place], errors: Errors) -> tuple[Paper, tuple[Beside, ...]] | None:
    """Read the key `paper` of a study and what stands beside it, or report what is wrong with it."""
    try:
        paper = Paper.model_validate(raw)
        return paper, tuple(match(paper, places))
    except ValidationError as error:
        errors.report(raw, error, ("paper",))
    except ValueError as error:
        errors.add(("paper",), str(error))
    return None


def tabulate(paper: Paper, beside: Sequence[Beside], places: Sequence[Place]) -> "pd.DataFrame":
    """Give a paper's values as `analysis.compare` takes them, a row each.

    Args:
        paper: whose values they are.
        beside: what `match` found.
        places: of the study, or of its rehearsal, in the same order.
    """
    import pandas as pd

    rows = []
    for value in beside:
        place = None if value.place is None else places[value.place]
        dataset, architecture, label = place.name if place else ("", "", "")
        stated = value.stated or Stated("", math.nan, None, 2)
        rows.append(
            {
                "row": value.row,
                "column": value.column,
                "dataset": dataset,
                "architecture": architecture,
                "label": label,
                "metric": measured(value.metric, place),
                "times": value.times,
                "stated": stated.text,
                "paper_mean": stated.mean,
                "paper_std": math.nan if stated.std is None else stated.std,
                "paper_n": value.seeds if value.stated else 0,
                "decimals": stated.decimals,
                "note": " ".join(value.notes),
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs = {"source": paper.source, "seeds": paper.seeds, "spread": paper.spread, "remark": paper.remark}
    return frame


def measured(metric: str, place: Place | None) -> str:
    """Name a metric as the runs of a place have it: what was measured on generated corruptions is called so."""
    generated = place is not None and place.dataset.corruptions == "generated"
    return f"generated/{metric}" if generated and metric.startswith(("corruption_error", "relative_change")) else metric
