"""Converts text tables to report tables and sections."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.reports.page_elements import Column, Row, Section, Table, Value
from analysis.tables.text_tables import TextTable

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def text_tables_section(title: str, text: str, tables: Sequence[TextTable], notes: Sequence[str] = ()) -> Section:
    """Make a report section from text tables.

    Args:
        title: The heading.
        text: The paragraph below it.
        tables: The tables. Their first column names what a row is about.
        notes: Lines below the tables.
    """
    return Section(title, text, tables=[convert_text_table(table) for table in tables], notes=list(notes))


def convert_text_table(table: TextTable) -> Table:
    """Convert a text table to a report table. A row without a name continues the row above and repeats its name."""
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
    sortable = all(cells[0] for cells in table.rows)  # sorting would separate the lines of rows with several lines
    return Table(table.title, columns, rows, notes=notes, filtered=False, sortable=sortable)


def leading_number(text: str) -> float:
    """Return the number at the start of a cell, by which the cell is sorted; NaN (sorted last) if there is none."""
    found = _NUMBER.match(text)
    return float(found[0].replace(",", "").replace("−", "-")) if found else math.nan


def beside_paper(compared: pd.DataFrame) -> Section:
    """Make the report section that compares a paper's values with ours.

    Args:
        compared: What `compare` returns.
    """
    from analysis.tables.published_comparison_tables import arrange_comparison, comparison_text_table

    grid = arrange_comparison(compared)
    return text_tables_section(
        "Comparison with the paper", "", [comparison_text_table(grid, str(compared.attrs["source"]))], grid.notes
    )
