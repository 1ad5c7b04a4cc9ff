"""A paper's table beside ours, as text, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.frame.unfinished_runs import unfinished_notes
from analysis.tables.latex_leaderboard import escape_latex, label_of
from analysis.tables.text_tables import ColumnHead, TextTable, footnote_letter, render_markdown, render_text

Format = Literal["text", "latex", "markdown", "csv"]


LINE_NAMES = ("paper", "ours", "difference")
"""The lines of a row, from top to bottom."""


MISSING, NOT_MEASURED = "missing", "not measured"
"""What stands in our line where no run is finished, and where none has the metric."""


CHOSEN_ON_TEST = "Ours was chosen on test data."
"""What stands below the table of such a value."""


NO_VALUE = "–"
"""What stands where the paper gives nothing, or where there is nothing to subtract."""


class ComparisonGrid(NamedTuple):
    """A table as it is written: a line of cells for each of the paper's, ours and the difference.

    Attributes:
        columns: the paper's names.
        rows: (the paper's name of the row, its three lines of cells).
        notes: what stands below, the marked ones last.
    """

    columns: list[str]
    rows: list[tuple[str, list[list[str]]]]
    notes: list[str]


def arrange_comparison(compared: pd.DataFrame) -> ComparisonGrid:
    """Arrange the values of `compare` as the paper's table has them, three lines a row."""
    columns = list(dict.fromkeys(map(str, compared["column"])))
    marks: dict[str, str] = {}
    rows = []
    for name, values in compared.groupby("row", sort=False):
        cells = {str(value["column"]): value for value in values.to_dict("records")}
        lines = [[format_cell(cells.get(column, {}), line, marks) for column in columns] for line in LINE_NAMES]
        rows.append((str(name), lines))
    return ComparisonGrid(
        columns, rows, [*comparison_notes(compared), *(f"[{mark}] {note}" for note, mark in marks.items())]
    )


def format_cell(value: Mapping[object, object], line: str, marks: dict[str, str]) -> str:
    """Write one line of a cell.

    Args:
        value: A row of `compare`, or nothing.
        line: Which of `LINES`.
        marks: Text of a note → its mark; a new note joins.
    """
    if not value:
        return ""
    figure = {str(key): float(str(value[key])) for key in _NUMERIC_COLUMNS}
    digits = int(str(value["decimals"]))
    stated, note = not math.isnan(figure["paper_mean"]), str(value["note"])
    if line == "paper":
        mark = f" [{marks.setdefault(note, footnote_letter(len(marks)))}]" if note else ""
        return (str(value["stated"]) or NO_VALUE).replace("-", "−") + mark
    if not value["label"]:
        return NO_VALUE
    if line == "ours":
        if not figure["ours_n"]:
            return NOT_MEASURED if value["runs"] else MISSING
        n, planned = int(figure["ours_n"]), int(str(value["runs"])) + int(str(value["unfinished"]))
        notes = [CHOSEN_ON_TEST] if value["chosen_on"] else []
        notes += [f"Ours is over {n} of {planned} runs."] if n < planned else []
        written = [f" [{marks.setdefault(note, footnote_letter(len(marks)))}]" for note in notes]
        return format_with_std(figure["ours_mean"], figure["ours_std"], digits) + "".join(written)
    if not stated or not figure["ours_n"]:
        return NO_VALUE
    interval = "n/a" if math.isnan(figure["low"]) else f"{figure['low']:+.{digits}f}, {figure['high']:+.{digits}f}"
    return f"{figure['difference']:+.{digits}f} [{interval}]".replace("-", "−")


_NUMERIC_COLUMNS = (
    "paper_mean",
    "paper_std",
    "ours_mean",
    "ours_std",
    "ours_n",
    "runs",
    "unfinished",
    "difference",
    "low",
    "high",
)


def format_with_std(mean: float, std: float, digits: int) -> str:
    """Write a mean and its spread, if it has one, with so many decimals."""
    written = f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")
    return written.replace("-", "−")


def comparison_notes(compared: pd.DataFrame) -> list[str]:
    """Say what the table shows: whose values, over how many runs, and which of ours are missing."""
    attrs = compared.attrs
    runs = compared[compared["label"] != ""]
    counts = sorted(int(n) for n in runs.loc[runs["ours_n"] > 0, "ours_n"].unique())
    over = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    absent, unmeasured = runs[runs["runs"] == 0], runs[(runs["runs"] > 0) & (runs["ours_n"] == 0)]
    told = [
        f"Paper: {attrs['source']}; {_paper_runs(attrs)}.",
        f"Ours: mean ± sample standard deviation over {over} runs; difference: ours − paper [Welch 95 % interval; n/a "
        "where a side has one run or no spread].",
    ]
    if len(absent):
        told.append(f"Missing: {len(absent)} of {len(runs)} values have no finished run of ours.")
    if len(unmeasured):
        told.append(f"Not measured: {len(unmeasured)} of {len(runs)} values, of which our runs lack the metric.")
    told += unfinished_notes(compared)
    return [*filter(None, [attrs.get("banner", "")]), *told, *filter(None, [attrs.get("remark", "")])]


def _paper_runs(attrs: Mapping[Any, Any]) -> str:
    """Say over how many runs the paper's values are."""
    if attrs["seeds"] == 1:
        return "one run"
    spread = attrs.get("spread") or "one run where there is no ±"
    return f"mean ± standard deviation over {attrs['seeds']} runs{'; ' if attrs.get('spread') else ', '}{spread}"


def render_paper(
    compared: pd.DataFrame, format: Format = "text", *, width: int | None = None, label: str | None = None
) -> str:
    r"""Write a paper's table beside ours.

    Args:
        compared: What `compare` returns.
        format: "text" for a terminal, "markdown", "latex" (booktabs), or "csv": a row a value, every figure apart.
        width: Characters a line of text may have; a wider table goes on below. Default: no limit.
        label: For `\ref`, of LaTeX. Default: made of the source.

    Raises:
        ValueError: If the format is none of these.
    """
    if format == "csv":
        if banner := compared.attrs.get("banner"):
            compared = compared.assign(banner=banner)
        return compared.to_csv(index=False, lineterminator="\n")
    if format not in ("text", "markdown", "latex"):
        raise ValueError(f"format must be text, latex, markdown or csv, not {format!r}")
    grid, title = arrange_comparison(compared), str(compared.attrs["source"])
    if format == "latex":
        return _latex_table(grid, label or label_of(title))
    return (
        render_text([comparison_text_table(grid, title)], grid.notes, width)
        if format == "text"
        else render_markdown([comparison_text_table(grid, title)], grid.notes)
    )


def _table_rows(grid: ComparisonGrid) -> list[list[str]]:
    """Give every line of a table with its first two cells: the row's name and what the line is."""
    return [
        [name if line == LINE_NAMES[0] else "", line, *cells]
        for name, lines in grid.rows
        for line, cells in zip(LINE_NAMES, lines, strict=True)
    ]


def comparison_text_table(grid: ComparisonGrid, title: str) -> TextTable:
    """Make a table as it is read of the paper's."""
    heads = [ColumnHead("row", left=True), ColumnHead("line", left=True), *map(ColumnHead, grid.columns)]
    return TextTable(title, heads, _table_rows(grid), repeated_columns=2)


def _latex_table(grid: ComparisonGrid, label: str) -> str:
    lines = _table_rows(grid)
    heads = ["", "", *map(escape_latex, grid.columns)]
    body = pd.DataFrame([[escape_latex(cell) for cell in line] for line in lines])
    written: str = (
        body.style.format_index(lambda i: heads[int(str(i))], axis=1)
        .hide(axis=0)
        .to_latex(
            column_format="ll" + "r" * len(grid.columns),
            position="tb",
            position_float="centering",
            hrules=True,
            label=label,
            caption=" ".join(map(escape_latex, grid.notes)),
        )
    )
    head, rule, rest = written.partition("\\midrule\n")
    rows = rest.splitlines(keepends=True)
    for i in range(len(lines) - len(LINE_NAMES), 0, -len(LINE_NAMES)):
        rows.insert(i, "\\addlinespace\n")
    return head + rule + "".join(rows)
