"""Tables as text for a terminal and as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frame.metric_display import Metric


@dataclass(frozen=True)
class Head:
    """The head of a column.

    Attributes:
        title: What stands in it.
        unit: Its unit, "" if it has none.
        arrow: Which direction is better, "↑", "↓" or "".
        left: Whether its cells are aligned to the left.
    """

    title: str
    unit: str = ""
    arrow: str = ""
    left: bool = False


@dataclass(frozen=True)
class Table:
    """A table as a reader sees it.

    Attributes:
        title: What stands above it.
        heads: One a column.
        rows: One cell a column each.
        repeated: How many of the first columns stand again where a wide table goes on below.
        note: A sentence below it.
    """

    title: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    repeated: int = 1
    note: str = ""


def text(tables: Sequence[Table], notes: Sequence[str], width: int | None = None) -> str:
    """Write tables for a terminal.

    Args:
        tables: In their order.
        notes: What stands below them, a line each.
        width: Characters a line of a table may have; a wider table goes on below. Default: no limit.
    """
    lines = [line for table in tables for line in _text(table, width)]
    return "\n".join([*lines, *map(clean, notes)]) + "\n"


def markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Write tables as Markdown, with a list of notes below them."""
    lines = [line for table in tables for line in _markdown(table)]
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in notes)]) + "\n"


def letter(i: int) -> str:
    """Give the i-th mark of a note or group, as spreadsheets count: a, b, … z, aa, ab and so on."""
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def clean(name: str) -> str:
    """Put a name on one line and drop characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in name).strip()


def _text(table: Table, width: int | None) -> Iterator[str]:
    from rich.cells import cell_len

    columns = zip(*([clean(cell) for cell in row] for row in table.rows), strict=True)
    full = [_text_head(head) + list(column) for head, column in zip(table.heads, columns, strict=True)]
    widths = [max(map(cell_len, column)) for column in full]
    yield from (clean(table.title), "")
    for block in _blocks(widths, width, table.repeated):
        padded = [[_pad(cell, widths[i], left=table.heads[i].left) for cell in full[i]] for i in block]
        written = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
        rule = "─" * (sum(widths[i] for i in block) + 2 * (len(block) - 1))
        yield from (*written[:2], rule, *written[2:], "")
    if table.note:
        yield from (clean(table.note), "")


def _text_head(head: Head) -> list[str]:
    """A head in two lines: the title, and below it unit and arrow; a title without them stands in the lower one."""
    below = f"{head.unit} {head.arrow}".strip()
    return [head.title, below] if below else ["", head.title]


def _blocks(widths: Sequence[int], limit: int | None, repeated: int) -> Iterator[list[int]]:
    """Share the columns out over tables that fit into a width, each with the first few."""
    block = list(range(repeated))
    for column in range(repeated, len(widths)):
        wide = sum(widths[i] + 2 for i in [*block, column]) - 2
        if limit is not None and wide > limit and len(block) > repeated:
            yield block
            block = list(range(repeated))
        block.append(column)
    yield block


def _pad(cell: str, width: int, *, left: bool) -> str:
    from rich.cells import cell_len

    blank = " " * (width - cell_len(cell))
    return cell + blank if left else blank + cell


def _markdown(table: Table) -> Iterator[str]:
    heads = [f"{head.title} ({head.unit})" if head.unit else head.title for head in table.heads]
    heads = [f"{name} {head.arrow}".strip() for name, head in zip(heads, table.heads, strict=True)]
    yield from (f"### {escape_markdown(table.title)}", "", _line(heads))
    yield _line([":--" if head.left else "--:" for head in table.heads])
    yield from (_line([escape_markdown(cell) for cell in row]) for row in table.rows)
    yield ""
    if table.note:
        yield from (escape_markdown(table.note), "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Escape what Markdown would read as markup, HTML included."""
    return re.sub(r"([\\|`*_\[\]#~$])", r"\\\1", html.escape(clean(text), quote=False))


def write_cell(row: Mapping[Any, object], metric: Metric) -> str:
    """Write the mean and spread of one entry, as "93.21 ± 0.10"; "–" where it has none."""
    mean = float(str(row[f"{metric.name}_mean"]))
    if pd.isna(mean):
        return "–"
    if not metric.spread:
        return metric.write(mean)
    return f"{metric.write(mean)} ± {metric.write_spread(float(str(row[f'{metric.name}_std'])))}"
