"""Tables that stand in other places too, as tables of the report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.reports.web_page import Column, Row, Section, Table, Value
from analysis.tables.text_tables import TextTable

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def text_tables_section(title: str, text: str, tables: Sequence[TextTable], notes: Sequence[str] = ()) -> Section:
    """Make a part of the report of tables as a leaderboard or a paper's comparison has them.

    Args:
        title: Its heading.
        text: What it shows.
        tables: Their first column is what a row is about.
        notes: Lines below them.
    """
    return Section(title, text, tables=[convert_text_table(table) for table in tables], notes=list(notes))


def convert_text_table(table: TextTable) -> Table:
    """Make a table of the report of one that is written as text; a row without a name is of the one above it."""
    columns = []
    for i, head in enumerate(table.heads):
        kind = "name" if i == 0 else "text" if head.left else "number"
        better = {"↑": "higher", "↓": "lower"}.get(head.arrow)
        columns.append(Column(head.title[:1].upper() + head.title[1:], head.unit, better, kind))  # type: ignore[arg-type]
    rows, name = [], ""
    for cells in table.rows:
        name = cells[0] or name
        values = [
            Value(cell, leading_number(cell) if not head.left else cell)
            for cell, head in zip(cells, table.heads, strict=True)
        ]
        rows.append(Row([Value(name), *values[1:]]))
    notes = [table.note] if table.note else []
    whole = all(cells[0] for cells in table.rows)  # else a row is of several lines, which sorting would tear apart
    return Table(table.title, columns, rows, notes=notes, filtered=False, sortable=whole)


def leading_number(text: str) -> float:
    """Give the number that a cell begins with, by which it is sorted; NaN, which stays last, if it begins with none."""
    found = _NUMBER.match(text)
    return float(found[0].replace(",", "").replace("−", "-")) if found else math.nan


def beside_paper(compared: pd.DataFrame) -> Section:
    """Make the part of the report that puts a paper's values beside ours.

    Args:
        compared: What `compare` returns.
    """
    from analysis.tables.published_comparison_tables import arrange_comparison, comparison_text_table

    grid = arrange_comparison(compared)
    return text_tables_section(
        "Beside the paper", "", [comparison_text_table(grid, str(compared.attrs["source"]))], grid.notes
    )
