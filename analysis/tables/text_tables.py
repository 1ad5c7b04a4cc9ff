"""Writes tables as text for a terminal and as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frame.metric_display import Metric


@dataclass(frozen=True)
class ColumnHead:
    """The head of a column.

    Attributes:
        title: The title.
        unit: The unit, or "".
        arrow: An arrow that points to better values: "↑", "↓" or "".
        left: Whether the cells are aligned to the left.
    """

    title: str
    unit: str = ""
    arrow: str = ""
    left: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table of text cells.

    Attributes:
        title: The title above the table.
        heads: One per column.
        rows: One cell per column in each row.
        repeated_columns: The number of leading columns that are repeated when a wide table continues below.
        note: A sentence below the table.
    """

    title: str
    heads: Sequence[ColumnHead]
    rows: Sequence[Sequence[str]]
    repeated_columns: int = 1
    note: str = ""


def render_text(tables: Sequence[TextTable], notes: Sequence[str], width: int | None = None) -> str:
    """Write tables for a terminal.

    Args:
        tables: The tables, in order.
        notes: Lines below the tables.
        width: Maximum characters per line of a table; a wider table continues below. Default: no limit.
    """
    lines = [line for table in tables for line in _text_lines(table, width)]
    return "\n".join([*lines, *map(make_printable, notes)]) + "\n"


def render_markdown(tables: Sequence[TextTable], notes: Sequence[str]) -> str:
    """Write tables as Markdown, with a list of notes below them."""
    lines = [line for table in tables for line in _markdown_lines(table)]
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in notes)]) + "\n"


def footnote_letter(i: int) -> str:
    """Return the i-th mark of a footnote, in the order of spreadsheet columns: a, b, … z, aa, ab and so on."""
    return (footnote_letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def make_printable(name: str) -> str:
    """Put text on one line and replace characters that a terminal would interpret."""
    return "".join(c if c.isprintable() else " " for c in name).strip()


def _text_lines(table: TextTable, width: int | None) -> Iterator[str]:
    from rich.cells import cell_len

    columns = zip(*([make_printable(cell) for cell in row] for row in table.rows), strict=True)
    full = [_text_head_lines(head) + list(column) for head, column in zip(table.heads, columns, strict=True)]
    widths = [max(map(cell_len, column)) for column in full]
    yield from (make_printable(table.title), "")
    for block in _split_columns(widths, width, table.repeated_columns):
        padded = [[_pad(cell, widths[i], left=table.heads[i].left) for cell in full[i]] for i in block]
        written = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
        rule = "─" * (sum(widths[i] for i in block) + 2 * (len(block) - 1))
        yield from (*written[:2], rule, *written[2:], "")
    if table.note:
        yield from (make_printable(table.note), "")


def _text_head_lines(head: ColumnHead) -> list[str]:
    """Return the two lines of a head: the title, and the unit and arrow; the title last if these are empty."""
    below = f"{head.unit} {head.arrow}".strip()
    return [head.title, below] if below else ["", head.title]


def _split_columns(widths: Sequence[int], limit: int | None, repeated_columns: int) -> Iterator[list[int]]:
    """Split the columns into blocks that fit a width; each block starts with the repeated columns."""
    block = list(range(repeated_columns))
    for column in range(repeated_columns, len(widths)):
        wide = sum(widths[i] + 2 for i in [*block, column]) - 2
        if limit is not None and wide > limit and len(block) > repeated_columns:
            yield block
            block = list(range(repeated_columns))
        block.append(column)
    yield block


def _pad(cell: str, width: int, *, left: bool) -> str:
    from rich.cells import cell_len

    blank = " " * (width - cell_len(cell))
    return cell + blank if left else blank + cell


def _markdown_lines(table: TextTable) -> Iterator[str]:
    heads = [f"{head.title} ({head.unit})" if head.unit else head.title for head in table.heads]
    heads = [f"{name} {head.arrow}".strip() for name, head in zip(heads, table.heads, strict=True)]
    yield from (f"### {escape_markdown(table.title)}", "", _markdown_row(heads))
    yield _markdown_row([":--" if head.left else "--:" for head in table.heads])
    yield from (_markdown_row([escape_markdown(cell) for cell in row]) for row in table.rows)
    yield ""
    if table.note:
        yield from (escape_markdown(table.note), "")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Escape characters that Markdown reads as markup, including HTML."""
    return re.sub(r"([\\|`*_\[\]#~$])", r"\\\1", html.escape(make_printable(text), quote=False))


def format_mean_and_std(row: Mapping[Any, object], metric: Metric) -> str:
    """Format the mean and standard deviation of one entry, as in "93.21 ± 0.10"; "–" where it has no value."""
    mean = float(str(row[f"{metric.name}_mean"]))
    if pd.isna(mean):
        return "–"
    if not metric.spread:
        return metric.format_value(mean)
    return f"{metric.format_value(mean)} ± {metric.format_std(float(str(row[f'{metric.name}_std'])))}"
