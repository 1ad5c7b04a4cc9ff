"""Writes the comparison with a paper's table as text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.frame.unfinished_runs import unfinished_notes
from analysis.tables.latex_document import escape_latex, label_of
from analysis.tables.text_tables import ColumnHead, TextTable, footnote_letter, render_markdown, render_text

Format = Literal["text", "latex", "markdown", "csv"]


LINE_NAMES = ("paper", "ours", "difference")
"""The three lines of a table row, from top to bottom."""


MISSING = "missing"
"""Our value if no run is finished."""

NOT_MEASURED = "not measured"
"""Our value if no finished run has the metric."""


CHOSEN_ON_TEST = "Our value was chosen on test data."
"""The footnote of a value whose runs were chosen on test data."""


NO_VALUE = "–"
"""The cell where the paper has no value, or where there is no difference."""


class ComparisonGrid(NamedTuple):
    """The cells of a comparison table. Each row has three lines: the paper's values, ours, and the differences.

    Attributes:
        columns: The paper's column names.
        rows: Pairs of the paper's row name and its three lines of cells.
        notes: The notes below the table; footnotes come last.
    """

    columns: list[str]
    rows: list[tuple[str, list[list[str]]]]
    notes: list[str]


def arrange_comparison(compared: pd.DataFrame) -> ComparisonGrid:
    """Arrange the values of `compare` like the paper's table, with three lines per row."""
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
    """Format one line of a cell.

    Args:
        value: A row of `compare`, or an empty mapping.
        line: One of `LINE_NAMES`.
        marks: The text of each footnote → its mark. New footnotes are added.
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
        notes += [f"Our value is over {n} of {planned} runs."] if n < planned else []
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
    """Format a mean and its standard deviation (left out if NaN) with the given number of decimals."""
    written = f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")
    return written.replace("-", "−")


def comparison_notes(compared: pd.DataFrame) -> list[str]:
    """Return the notes below the table: the sources, the number of runs, and our missing values."""
    attrs = compared.attrs
    runs = compared[compared["label"] != ""]
    counts = sorted(int(n) for n in runs.loc[runs["ours_n"] > 0, "ours_n"].unique())
    over = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    absent, unmeasured = runs[runs["runs"] == 0], runs[(runs["runs"] > 0) & (runs["ours_n"] == 0)]
    notes = [
        f"Paper: {attrs['source']}; {_paper_runs(attrs)}.",
        f"Ours: mean ± sample standard deviation over {over} runs; difference: ours − paper [Welch 95 % interval; n/a "
        "where a side has one run or no spread].",
    ]
    if len(absent):
        notes.append(f"Missing: {len(absent)} of {len(runs)} values have no finished run of ours.")
    if len(unmeasured):
        notes.append(f"Not measured: our runs lack the metric of {len(unmeasured)} of {len(runs)} values.")
    notes += unfinished_notes(compared)
    return [*filter(None, [attrs.get("banner", "")]), *notes, *filter(None, [attrs.get("remark", "")])]


def _paper_runs(attrs: Mapping[Any, Any]) -> str:
    """Describe the number of runs behind the paper's values."""
    if attrs["seeds"] == 1:
        return "one run"
    spread = attrs.get("spread") or "one run where there is no ±"
    return f"mean ± standard deviation over {attrs['seeds']} runs{'; ' if attrs.get('spread') else ', '}{spread}"


def render_paper(
    compared: pd.DataFrame, format: Format = "text", *, width: int | None = None, label: str | None = None
) -> str:
    r"""Write the comparison with a paper's table.

    Args:
        compared: What `compare` returns.
        format: "text" for a terminal, "markdown", "latex" (booktabs), or "csv": one row per value, every number in its
            own column.
        width: Maximum characters per line of text; a wider table continues below. Default: no limit.
        label: For `\ref`, in LaTeX. Default: made from the source.

    Raises:
        ValueError: If the format is unknown.
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
    """Return the rows of the written table: the row's name, the line's name, and the cells."""
    return [
        [name if line == LINE_NAMES[0] else "", line, *cells]
        for name, lines in grid.rows
        for line, cells in zip(LINE_NAMES, lines, strict=True)
    ]


def comparison_text_table(grid: ComparisonGrid, title: str) -> TextTable:
    """Make the text table of a comparison."""
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
