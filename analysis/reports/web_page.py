"""Writes a self-contained web page of tables and figures.

Callers pass `Section`s. This module and the folder `templates` define how the page looks, sorts, filters and prints.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from analysis.reports.page_elements import Column, Section, Value
from analysis.tables.text_tables import make_printable

if TYPE_CHECKING:
    pass


def write_page(
    title: str,
    sections: Sequence[Section],
    *,
    about: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    banner: str = "",
    tell: Callable[[str], None] | None = None,
) -> str:
    """Write a page with figures and with tables that can be sorted and filtered.

    The page works on phones, in dark mode, by keyboard and in print.

    All text is escaped. The page loads nothing and runs no script but its own.

    Args:
        title: The heading.
        sections: The sections, in order.
        about: Facts about the page by name, shown below the heading.
        warnings: Warnings that readers must see first.
        banner: A line at the top, as in "Rehearsal: 2 of 200 epochs".
        tell: Called with a progress message before each figure is written.
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
    """Return the columns that readers can show and hide, one per metric."""
    found: dict[str, Column] = {}
    for column in (column for section in sections for table in section.tables for column in table.columns):
        if column.metric and (column.metric not in found or column.shown):
            found[column.metric] = column
    return list(found.values())


def _add_line_breaks(name: str) -> Markup:
    """Allow line breaks between the parts of a long name."""
    return Markup("<wbr>").join(re.split(r"(?<=\w[_(,=.])(?=[^\W\d])", name))


def _sort_value(value: Value) -> str:
    """Return the string that a value is sorted by; "" is sorted last."""
    if isinstance(value.sort, float | int):
        return "" if math.isnan(value.sort) else format(value.sort, ".12g")
    return make_printable(value.text if value.sort is None else value.sort)
