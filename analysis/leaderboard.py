"""Methods ranked over seeds, with their cost, as text, CSV, Markdown or a web page."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import pandas as pd

from analysis.metrics import SHOWN, Metric, describe
from analysis.runs import ranked
from analysis.statistics import CELL, relative_costs, summarize

Format = Literal["text", "csv", "markdown", "html"]
_LISTED = 5  # unfinished cells named in a note; the others are counted
_REASON = 100  # characters of a failure's reason


def leaderboard(frame: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Rank the methods within each dataset and architecture, without runs that were chosen on test data.

    Args:
        frame: Rows of `load_runs`; `attrs["tuning"]` may say which methods were tuned, and with how much.
        by: The metric to rank by, over its mean; None for the accuracy, or of text the bits per character. Ties go to
            the lower NLL (by NLL: to the higher accuracy), and entries equal in both share a rank. A metric of which
            neither direction is better (diversity) ranks from high to low. An entry without the metric comes last and
            has no rank.

    Returns:
        One row a (dataset, architecture, label), the best first: columns dataset, architecture, rank, label,
        method, n, evaluated_on, and every metric as `<name>_mean` and `<name>_std` (see `summarize`).
        `attrs["notes"]` holds what a reader must know, `attrs["by"]` the metric, `attrs["left_out"]` what `ranked`
        left out, `attrs["tuning"]` what was tuned.

    Raises:
        LookupError: If all runs were chosen on test data.
        ValueError: If no run has the metric, or the frame mixes what does not belong in one table.
    """
    board = summarize(relative_costs(ranked(frame)))
    by = by or ("bpc" if "bpc_mean" in board else "accuracy")
    if f"{by}_mean" not in board:
        known = ", ".join(str(name)[:-5] for name in board if str(name).endswith("_mean"))
        raise ValueError(f"no run has {by!r}; a leaderboard can go by: {known}")
    second = "accuracy" if by == "nll" else "nll"
    order = board[[*CELL, "label"]].assign(first=_ascending(board, by), second=_ascending(board, second))
    order = order.sort_values([*CELL, "first", "second", "label"], na_position="last")
    board.insert(2, "rank", pd.Series(_ranks(order), dtype="Int64"))
    tuning = frame.attrs.get("tuning", "")
    notes = [*_seed_notes(board), *filter(None, [tuning]), *board.attrs.get("notes", []), *_unfinished_notes(frame)]
    partial, left_out = board.attrs["partial"], board.attrs.get("left_out", "")
    board = board.loc[order.index].reset_index(drop=True)
    board.attrs = {"by": by, "partial": partial, "left_out": left_out, "tuning": tuning, "notes": notes}
    return board


def render(
    board: pd.DataFrame,
    format: Format = "text",
    *,
    metrics: Sequence[str] = SHOWN,
    width: int | None = None,
) -> str:
    """Write a leaderboard.

    Args:
        board: What `leaderboard` returns.
        format: "text" (for a terminal), "markdown", "html" (one page that needs nothing else), or "csv"
            (every metric, mean and standard deviation apart, in full precision).
        metrics: The columns of the other three, as far as the runs have them.
        width: Characters a line of text may have; a wider table goes on below. Default: no limit.

    Raises:
        ValueError: If the format is none of these.
    """
    if format == "csv":
        return board.to_csv(index=False, lineterminator="\n")
    if format == "text":
        return _text(board, metrics, width)
    if format == "markdown":
        return _markdown(board, metrics)
    if format == "html":
        from analysis.report import page

        return page(board, metrics)
    raise ValueError(f"format must be text, csv, markdown or html, not {format!r}")


def sections(board: pd.DataFrame, metrics: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame, list[Metric]]]:
    """Split a board into its tables: the title, the rows and the metrics that at least one of them has."""
    for (dataset, architecture), rows in board.groupby(CELL, sort=False):
        has = [name for name in metrics if f"{name}_mean" in rows and rows[f"{name}_mean"].notna().any()]
        yield f"{dataset} · {architecture}", rows, [describe(name) for name in has]


def write_cell(row: Mapping[str, object], metric: Metric) -> str:
    """Write the mean and spread of one entry, as "93.21 ± 0.10"; "–" where it has none."""
    mean, std = float(str(row[f"{metric.name}_mean"])), float(str(row[f"{metric.name}_std"]))
    if pd.isna(mean):
        return "–"
    return f"{metric.write(mean)} ± {metric.write_spread(std)}" if metric.spread else metric.write(mean)


def clean(name: str) -> str:
    """Put a name on one line and drop characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in name).strip()


def _ascending(board: pd.DataFrame, name: str) -> pd.Series[float]:
    """A metric's means with the sign that makes smaller better, without the noise of rounding."""
    if f"{name}_mean" not in board:
        return pd.Series(0.0, index=board.index)
    return board[f"{name}_mean"].round(9) * (1.0 if describe(name).better == "lower" else -1.0)


def _ranks(order: pd.DataFrame) -> dict[int, int | None]:
    ranks: dict[int, int | None] = {}
    for _, rows in order.groupby(CELL, sort=False):
        previous: tuple[float | None, float | None] | None = None
        rank = 0
        values = zip(rows.index, rows["first"], rows["second"], strict=True)
        for position, (index, first, second) in enumerate(values, start=1):
            current = (None if pd.isna(first) else first, None if pd.isna(second) else second)
            rank = rank if current == previous else position
            ranks[int(index)] = None if pd.isna(first) else rank
            previous = current
    return ranks


def _seed_notes(board: pd.DataFrame) -> list[str]:
    split = board["evaluated_on"].iloc[0]
    counts = sorted(board["n"].unique())
    if len(counts) == 1:
        seeds = f"n = {counts[0]} seed{'s' if counts[0] > 1 else ''}"
    else:
        seeds = f"n = {counts[0]} to {counts[-1]} seeds (column n)"
    return [f"Mean ± sample standard deviation (n − 1) over {seeds}, on {split} data."]


def _unfinished_notes(frame: pd.DataFrame) -> list[str]:
    unfinished: list[dict[str, str]] = frame.attrs.get("unfinished", [])
    notes = []
    states = Counter(cell["state"] for cell in unfinished)
    for state, count in sorted(states.items()):
        cells = [cell for cell in unfinished if cell["state"] == state and "label" in cell]
        named = "; ".join(_name_cell(cell) for cell in cells[:_LISTED])
        more = f"; and {len(cells) - _LISTED} more" if len(cells) > _LISTED else ""
        runs = f"{count} run{'s' if count > 1 else ''}"
        notes.append(f"Not shown, {state}: {runs}{f' ({named}{more})' if named else ''}.")
    return notes


def _name_cell(cell: Mapping[str, str]) -> str:
    name = f"{cell['label']} · {cell['architecture']} · {cell['dataset']} · seed {cell['seed']}"
    lines = [line.strip() for line in cell.get("reason", "").splitlines() if line.strip()]
    if not lines:
        return name
    reason = lines[-1] if len(lines[-1]) <= _REASON else f"{lines[-1][: _REASON - 1]}…"
    return f"{name}: {reason}"


def _rows(rows: pd.DataFrame, shown: Sequence[Metric]) -> Iterator[list[str]]:
    for row in rows.to_dict("records"):
        rank = "–" if pd.isna(row["rank"]) else str(row["rank"])
        figures = [write_cell({str(k): v for k, v in row.items()}, metric) for metric in shown]
        yield [rank, clean(str(row["label"])), str(row["n"]), *figures]


def _text(board: pd.DataFrame, metrics: Sequence[str], width: int | None) -> str:
    from rich.cells import cell_len

    lines: list[str] = []
    for title, rows, shown in sections(board, metrics):
        heads = [("", "#"), ("", "method"), ("", "n")]
        heads += [(metric.title, f"{metric.unit} {metric.arrow}".strip()) for metric in shown]
        columns = [list(column) for column in zip(*_rows(rows, shown), strict=True)]
        full = [[*head, *column] for head, column in zip(heads, columns, strict=True)]
        widths = [max(map(cell_len, column)) for column in full]
        lines += [clean(title), ""]
        for block in _blocks(widths, width):
            table = [[_pad(cell, widths[i], left=i == 1) for cell in full[i]] for i in block]
            written = ["  ".join(cells).rstrip() for cells in zip(*table, strict=True)]
            rule = "─" * (sum(widths[i] for i in block) + 2 * (len(block) - 1))
            lines += [*written[:2], rule, *written[2:], ""]
    return "\n".join([*lines, *map(clean, board.attrs.get("notes", []))]) + "\n"


def _blocks(widths: Sequence[int], limit: int | None) -> Iterator[list[int]]:
    """Share the columns out over tables that fit into a width, each with the first three."""
    block = [0, 1, 2]
    for column in range(3, len(widths)):
        wide = sum(widths[i] + 2 for i in [*block, column]) - 2
        if limit is not None and wide > limit and len(block) > 3:
            yield block
            block = [0, 1, 2]
        block.append(column)
    yield block


def _pad(text: str, width: int, *, left: bool) -> str:
    from rich.cells import cell_len

    blank = " " * (width - cell_len(text))
    return text + blank if left else blank + text


def _markdown(board: pd.DataFrame, metrics: Sequence[str]) -> str:
    lines: list[str] = []
    for title, rows, shown in sections(board, metrics):
        heads = [f"{metric.header} {metric.arrow}".strip() for metric in shown]
        lines += [f"### {escape_markdown(title)}", "", _line(["#", "method", "n", *heads])]
        lines += [_line(["--:", ":--", *["--:"] * (len(shown) + 1)])]
        lines += [_line([escape_markdown(cell) for cell in cells]) for cells in _rows(rows, shown)]
        lines += [""]
    lines += [f"- {escape_markdown(note)}" for note in board.attrs.get("notes", [])]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Escape what Markdown would read as markup, HTML included."""
    return re.sub(r"([\\|`*_\[\]#~$])", r"\\\1", html.escape(clean(text), quote=False))
