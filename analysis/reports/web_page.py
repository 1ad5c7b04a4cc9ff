"""A web page of tables and figures in one file: sections → HTML that needs nothing else.

Whoever has something to show hands over a `Section`. How it looks, sorts, filters and prints is settled here and in the
folder `templates`, once for all.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from analysis.frame.metric_display import Metric
from analysis.tables.text_tables import make_printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Attributes:
        title: What a reader calls it.
        unit: Its unit, or "".
        better: Which direction is better; None where neither is. The first click sorts the best to the top.
        kind: What it holds: "number", "text", "code" (commits, keys), or "name", what a row is about. A table has one
            "name", which stays in sight, and is what the page's filter looks at.
        metric: The name under which the page's list of columns shows and hides it, in all tables at once; "" for a
            column that always shows.
        shown: Whether it shows at first.
        sorted: How the rows are sorted by it at first, if they are.
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
        """Head a column of a metric, which the reader may show and hide if it is `choosable`."""
        return cls(metric.title, metric.unit, metric.better, metric=metric.name if choosable else "", shown=shown)


@dataclass(frozen=True)
class Value:
    """What stands in one place of a table.

    Attributes:
        text: As it is read; "" is written as a dash.
        sort: The number or text it is sorted by. Default: its text. NaN, None and "" stay last, whichever way.
        best: Whether it is the best of its column.
        link: A web address.
        more: Longer text that opens at a click, such as a traceback.
    """

    text: str
    sort: float | str | None = field(default=None)
    best: bool = False
    link: str = ""
    more: str = ""

    def __post_init__(self) -> None:
        """Refuse a link that would run something.

        Raises:
            ValueError: If the link is no web address.
        """
        if self.link and not self.link.startswith(("https://", "http://")):
            raise ValueError(f"{self.link!r} is no web address")

    @classmethod
    def number(cls, value: float, text: str, *, best: bool = False) -> Value:
        """Write a number; NaN is empty."""
        return cls("" if math.isnan(value) else text, value, best)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        values: One for each column.
        find: What the page's filter looks at besides the row's name, such as a key.
    """

    values: Sequence[Value]
    find: str = ""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        columns: The heads of its columns.
        rows: Sorted as they shall stand at first.
        place: The dataset and architecture it is about, "digits · lenet5"; "" for a table about several. The page's
            selector hides the tables of other places.
        notes: Lines below it.
        folded: Whether it opens only at a click.
        filtered: Whether the page's filter applies to it.
        sortable: Whether its headings sort it; not if its rows belong together.
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
        """Refuse what would make a broken table.

        Raises:
            ValueError: If a row has not one value for each column, or no one column is the rows' name.
        """
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"table {self.title!r}: {len(row.values)} values for {len(self.columns)} columns")
        if [column.kind for column in self.columns].count("name") != 1:
            raise ValueError(f"table {self.title!r}: exactly one column must be of kind 'name'")


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn into the page as SVG.

    Attributes:
        title: Its heading.
        figure: What a function of `analysis.figures.reliability_plot` returned.
        caption: What it shows.
    """

    title: str
    figure: Figure
    caption: str = ""

    @property
    def alternative(self) -> str:
        """What is read out in its place: the title and the caption's first sentence."""
        return f"{self.title}: {self.caption.partition('. ')[0]}" if self.caption else self.title


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, which the list of contents names.

    Attributes:
        title: Its heading.
        text: A paragraph below it.
        tables: Its tables.
        drawings: Its figures, below the tables.
        notes: Lines at its end.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    notes: Sequence[str] = ()


def write_page(
    title: str,
    sections: Sequence[Section],
    *,
    about: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    banner: str = "",
    tell: Callable[[str], None] | None = None,
) -> str:
    """Write a page: sortable and filterable tables, figures, made for phones, the dark, the keyboard and paper.

    All text is escaped, whatever it holds. The page may load nothing and run no script but its own.

    Args:
        title: Its heading.
        sections: Its parts, in their order.
        about: What the figures are, by name, below the heading.
        warnings: What a reader must know first.
        banner: A line above everything, as in "Rehearsal: 2 of 200 epochs".
        tell: Called with a line before each figure is written.
    """
    import jinja2

    from analysis.reports.inline_svg import inline_svg

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"breakable": _add_line_breaks, "clean": make_printable, "sort_value": _sort_value}
    drawn: list[str] = []
    for drawing in (drawing for section in sections for drawing in section.drawings):
        if tell:
            tell(f"writing {drawing.title}")
        drawn.append(inline_svg(drawing.figure, f"figure-{len(drawn) + 1}-", drawing.alternative))
    script = read_template("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(read_template("report.html")).render(
        title=title,
        sections=sections,
        about=about or {},
        warnings=warnings,
        banner=banner,
        places=_list_places(sections),
        choices=_choosable_columns(sections),
        next_svg=iter(drawn).__next__,
        style=read_template("report.css"),
        script=script,
        digest=digest,
    )


def read_template(name: str) -> str:
    """Read a file of the folder `templates`."""
    return files("analysis.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _list_places(sections: Sequence[Section]) -> list[str]:
    return list(dict.fromkeys(table.place for section in sections for table in section.tables if table.place))


def _choosable_columns(sections: Sequence[Section]) -> list[Column]:
    """List the columns that may be shown and hidden, each metric once; it shows if it does in one of the tables."""
    found: dict[str, Column] = {}
    for column in (column for section in sections for table in section.tables for column in table.columns):
        if column.metric and (column.metric not in found or column.shown):
            found[column.metric] = column
    return list(found.values())


def _add_line_breaks(name: str) -> Markup:
    """Let a long name break where its parts end."""
    return Markup("<wbr>").join(re.split(r"(?<=\w[_(,=.])(?=[^\W\d])", name))


def _sort_value(value: Value) -> str:
    """Write what a place is sorted by; "" stays last."""
    if isinstance(value.sort, float | int):
        return "" if math.isnan(value.sort) else format(value.sort, ".12g")
    return make_printable(value.text if value.sort is None else value.sort)
