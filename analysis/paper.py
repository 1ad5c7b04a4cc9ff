"""A paper's table beside ours: both means and spreads, their difference and its Welch interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pandas as pd

from analysis.statistics import CELL, refuse_mixtures
from analysis.tables import escape, label_of
from analysis.unfinished import unfinished_notes
from analysis.writing import Head, Table, letter, markdown, text

Format = Literal["text", "latex", "markdown", "csv"]
LEVEL = 0.95
LINES = ("paper", "ours", "difference")
"""The lines of a row, from top to bottom."""
MISSING, UNMEASURED = "missing", "not measured"
"""What stands in our line where no run is finished, and where none has the metric."""
CHOSEN = "Ours was chosen on test data."
"""What stands below the table of such a value."""
NOTHING = "–"
"""What stands where the paper gives nothing, or where there is nothing to subtract."""


def compare(paper: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Put our runs beside the values of a paper.

    The interval is Welch's, of the difference of two means with spreads and numbers of runs of their own (Welch, The
    generalization of 'Student's' problem, Biometrika 1947). It does not exist (NaN) where either side has one run,
    where neither spreads, or where the paper states no spread.

    Args:
        paper: A row a value of the paper's table, in its order, with columns row and column (their names in the table),
            dataset, architecture and label (the cells of ours that it stands beside), metric (a column of `load_runs`),
            times (our unit times this is the paper's), stated (the value as the paper writes it, "" for nothing),
            paper_mean, paper_std, paper_n (NaN and 0 where it gives nothing), decimals (of its mean), note.
        frame: Rows of `load_runs`; those chosen on test data count too, as they do in the paper.

    Returns:
        The paper's rows with further columns ours_mean, ours_std (sample standard deviation, n − 1), ours_n (the
        finished runs that have the metric), runs (the finished ones), unfinished (the others), chosen_on ("test" if
        some were chosen on test data), difference (ours − the paper's), low and high (its 95 % interval), all in the
        paper's unit. NaN where there is nothing: a missing run is never filled. `attrs` are both frames'.

    Raises:
        ValueError: If the runs are not of test data, or the frame mixes what does not belong in one table.
    """
    refuse_mixtures(frame)
    if list(frame["evaluated_on"].unique()) != ["test"]:
        raise ValueError("a paper's values are of test data, these runs were evaluated on validation data")
    groups = dict(iter(frame.groupby([*CELL, "label"])))
    cells = frame.attrs.get("unfinished", [])
    unfinished = Counter(tuple(cell.get(name, "") for name in (*CELL, "label")) for cell in cells)
    rows = []
    for value in paper.to_dict("records"):
        runs = groups.get((value["dataset"], value["architecture"], value["label"]))
        metric = str(value["metric"])
        ours = runs[metric].dropna() * value["times"] if runs is not None and metric in runs else pd.Series(dtype=float)
        mean, std, n = float(ours.mean()), float(ours.std(ddof=1)), len(ours)
        low, high = welch(mean, std, n, value["paper_mean"], value["paper_std"], value["paper_n"])
        found = {"ours_mean": mean, "ours_std": std, "ours_n": n, "difference": mean - value["paper_mean"]}
        found |= {"runs": 0 if runs is None else len(runs), "chosen_on": _chosen_on(runs)}
        found["unfinished"] = unfinished[value["dataset"], value["architecture"], value["label"]]
        rows.append({str(key): item for key, item in value.items()} | found | {"low": low, "high": high})
    compared = pd.DataFrame(rows)
    compared.attrs = {**frame.attrs, **paper.attrs}
    return compared


def _chosen_on(runs: pd.DataFrame | None) -> str:
    """Say whether some of the runs were chosen on test data."""
    return "test" if runs is not None and "chosen_on" in runs and (runs["chosen_on"] == "test").any() else ""


def welch(mean: float, std: float, n: int, other: float, other_std: float, other_n: int) -> tuple[float, float]:
    """Give Welch's 95 % interval of the difference of two means; NaN where it does not exist.

    Args:
        mean: Of our runs; `std` their sample standard deviation, `n` their number.
        std: See `mean`.
        n: See `mean`.
        other: The same of the paper's runs, as are the last two.
        other_std: See `other`.
        other_n: See `other`.
    """
    from scipy.stats import t

    known = not any(math.isnan(value) for value in (mean, std, other, other_std))
    if not known or min(n, other_n) < 2:
        return math.nan, math.nan
    a, b = std**2 / n, other_std**2 / other_n
    if a + b == 0:
        return math.nan, math.nan
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (other_n - 1))
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(a + b)
    return mean - other - half, mean - other + half


class Grid(NamedTuple):
    """A table as it is written: a line of cells for each of the paper's, ours and the difference.

    Attributes:
        columns: the paper's names.
        rows: (the paper's name of the row, its three lines of cells).
        notes: what stands below, the marked ones last.
    """

    columns: list[str]
    rows: list[tuple[str, list[list[str]]]]
    notes: list[str]


def arrange(compared: pd.DataFrame) -> Grid:
    """Arrange the values of `compare` as the paper's table has them, three lines a row."""
    columns = list(dict.fromkeys(map(str, compared["column"])))
    marks: dict[str, str] = {}
    rows = []
    for name, values in compared.groupby("row", sort=False):
        cells = {str(value["column"]): value for value in values.to_dict("records")}
        lines = [[write(cells.get(column, {}), line, marks) for column in columns] for line in LINES]
        rows.append((str(name), lines))
    return Grid(columns, rows, [*remarks(compared), *(f"[{mark}] {note}" for note, mark in marks.items())])


def write(value: Mapping[object, object], line: str, marks: dict[str, str]) -> str:
    """Write one line of a cell.

    Args:
        value: A row of `compare`, or nothing.
        line: Which of `LINES`.
        marks: Text of a note → its mark; a new note joins.
    """
    if not value:
        return ""
    figure = {str(key): float(str(value[key])) for key in _FIGURES}
    digits = int(str(value["decimals"]))
    stated, note = not math.isnan(figure["paper_mean"]), str(value["note"])
    if line == "paper":
        mark = f" [{marks.setdefault(note, letter(len(marks)))}]" if note else ""
        return (str(value["stated"]) or NOTHING).replace("-", "−") + mark
    if not value["label"]:
        return NOTHING
    if line == "ours":
        if not figure["ours_n"]:
            return UNMEASURED if value["runs"] else MISSING
        n, planned = int(figure["ours_n"]), int(str(value["runs"])) + int(str(value["unfinished"]))
        notes = [CHOSEN] if value["chosen_on"] else []
        notes += [f"Ours is over {n} of {planned} runs."] if n < planned else []
        written = [f" [{marks.setdefault(note, letter(len(marks)))}]" for note in notes]
        return spread(figure["ours_mean"], figure["ours_std"], digits) + "".join(written)
    if not stated or not figure["ours_n"]:
        return NOTHING
    interval = "n/a" if math.isnan(figure["low"]) else f"{figure['low']:+.{digits}f}, {figure['high']:+.{digits}f}"
    return f"{figure['difference']:+.{digits}f} [{interval}]".replace("-", "−")


_FIGURES = (
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


def spread(mean: float, std: float, digits: int) -> str:
    """Write a mean and its spread, if it has one, with so many decimals."""
    written = f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")
    return written.replace("-", "−")


def remarks(compared: pd.DataFrame) -> list[str]:
    """Say what the table shows: whose values, over how many runs, and which of ours are missing."""
    attrs = compared.attrs
    runs = compared[compared["label"] != ""]
    counts = sorted(int(n) for n in runs.loc[runs["ours_n"] > 0, "ours_n"].unique())
    over = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    absent, unmeasured = runs[runs["runs"] == 0], runs[(runs["runs"] > 0) & (runs["ours_n"] == 0)]
    told = [
        f"Paper: {attrs['source']}; {_count_paper(attrs)}.",
        f"Ours: mean ± sample standard deviation over {over} runs; difference: ours − paper [Welch 95 % interval; n/a "
        "where a side has one run or no spread].",
    ]
    if len(absent):
        told.append(f"Missing: {len(absent)} of {len(runs)} values have no finished run of ours.")
    if len(unmeasured):
        told.append(f"Not measured: {len(unmeasured)} of {len(runs)} values, of which our runs lack the metric.")
    told += unfinished_notes(compared)
    return [*filter(None, [attrs.get("banner", "")]), *told, *filter(None, [attrs.get("remark", "")])]


def _count_paper(attrs: Mapping[Any, Any]) -> str:
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
    grid, title = arrange(compared), str(compared.attrs["source"])
    if format == "latex":
        return _latex(grid, label or label_of(title))
    return (
        text([write_table(grid, title)], grid.notes, width)
        if format == "text"
        else markdown([write_table(grid, title)], grid.notes)
    )


def _lines(grid: Grid) -> list[list[str]]:
    """Give every line of a table with its first two cells: the row's name and what the line is."""
    return [
        [name if line == LINES[0] else "", line, *cells]
        for name, lines in grid.rows
        for line, cells in zip(LINES, lines, strict=True)
    ]


def write_table(grid: Grid, title: str) -> Table:
    """Make a table as it is read of the paper's."""
    heads = [Head("row", left=True), Head("line", left=True), *map(Head, grid.columns)]
    return Table(title, heads, _lines(grid), repeated=2)


def _latex(grid: Grid, label: str) -> str:
    lines = _lines(grid)
    heads = ["", "", *map(escape, grid.columns)]
    body = pd.DataFrame([[escape(cell) for cell in line] for line in lines])
    written: str = (
        body.style.format_index(lambda i: heads[int(str(i))], axis=1)
        .hide(axis=0)
        .to_latex(
            column_format="ll" + "r" * len(grid.columns),
            position="tb",
            position_float="centering",
            hrules=True,
            label=label,
            caption=" ".join(map(escape, grid.notes)),
        )
    )
    head, rule, rest = written.partition("\\midrule\n")
    rows = rest.splitlines(keepends=True)
    for i in range(len(lines) - len(LINES), 0, -len(LINES)):
        rows.insert(i, "\\addlinespace\n")
    return head + rule + "".join(rows)
