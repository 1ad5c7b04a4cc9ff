"""Defines the elements of a report page: sections, tables, columns, rows, values and drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from analysis.frame.metric_display import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Column:
    """The definition of one table column.

    Attributes:
        title: The title that readers see.
        unit: The unit, or "".
        better: Which direction is better; None where neither is. The first click on the heading sorts the best
            to the top.
        kind: The kind of content: "number", "text", "code" (commits, keys), or "name", the subject of a row. A table
            has exactly one "name" column. It stays visible while scrolling, and the page's filter searches it.
        metric: The name under which readers can show and hide the column, in all tables at once; "" for a column that
            is always shown.
        shown: Whether the column is shown at first.
        sorted: The direction in which the rows are initially sorted by this column, if they are.
    """

    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    kind: Literal["number", "text", "code", "name"] = "number"
    metric: str = ""
    shown: bool = True
    sorted: Literal["ascending", "descending"] | None = None

    @classmethod
    def of(cls, metric: Metric, *, choosable: bool = False, shown: bool = True) -> Column:
        """Make the column of a metric; readers can show and hide it if it is `choosable`."""
        return cls(metric.title, metric.unit, metric.better, metric=metric.name if choosable else "", shown=shown)


@dataclass(frozen=True)
class Value:
    """The content of one table cell.

    Attributes:
        text: The displayed text; "" is displayed as a dash.
        sort: The number or text to sort by. Default: the displayed text. NaN, None and "" are always sorted last.
        best: Whether the value is the best of its column.
        link: A web address.
        more: Longer text that opens at a click, such as a traceback.
    """

    text: str
    sort: float | str | None = field(default=None)
    best: bool = False
    link: str = ""
    more: str = ""

    def __post_init__(self) -> None:
        """Check that the link is a web address and cannot run a script.

        Raises:
            ValueError: If the link is not a web address.
        """
        if self.link and not self.link.startswith(("https://", "http://")):
            raise ValueError(f"{self.link!r} is no web address")

    @classmethod
    def number(cls, value: float, text: str, *, best: bool = False) -> Value:
        """Make the value of a number; NaN is displayed as empty."""
        return cls("" if math.isnan(value) else text, value, best)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: One value for each column.
        find: Text that the page's filter searches besides the row's name, such as a key.
    """

    values: Sequence[Value]
    find: str = ""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: The heading.
        columns: The columns.
        rows: The rows in their initial order.
        place: The dataset and architecture of the table, as in "digits · lenet5"; "" for a table about several. The
            page's selector hides the tables of other datasets and architectures.
        notes: Lines below the table.
        folded: Whether the table is collapsed until a click.
        filtered: Whether the page's filter applies to the table.
        sortable: Whether its headings sort it; False if consecutive rows belong together.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    place: str = ""
    notes: Sequence[str] = ()
    folded: bool = False
    filtered: bool = True
    sortable: bool = True

    def __post_init__(self) -> None:
        """Check the columns and rows.

        Raises:
            ValueError: If a row does not have one value per column, or not exactly one column is of kind "name".
        """
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"table {self.title!r}: {len(row.values)} values for {len(self.columns)} columns")
        if [column.kind for column in self.columns].count("name") != 1:
            raise ValueError(f"table {self.title!r}: exactly one column must be of kind 'name'")


@dataclass(frozen=True)
class Drawing:
    """A figure, embedded in the page as SVG.

    Attributes:
        title: The heading.
        figure: The matplotlib figure.
        caption: A description below the figure.
    """

    title: str
    figure: Figure
    caption: str = ""

    @property
    def alternative(self) -> str:
        """The text for screen readers: the title and the caption's first sentence."""
        return f"{self.title}: {self.caption.partition('. ')[0]}" if self.caption else self.title


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, listed in the table of contents.

    Attributes:
        title: The heading.
        text: A paragraph below the heading.
        tables: The tables.
        drawings: The figures, below the tables.
        notes: Lines at the end.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    notes: Sequence[str] = ()
