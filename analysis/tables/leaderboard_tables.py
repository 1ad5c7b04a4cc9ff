"""Leaderboards as text, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import pandas as pd

from analysis.comparisons.paired_differences import write_difference
from analysis.frame.metric_display import SHOWN, Metric, describe
from analysis.frame.seed_statistics import CELL
from analysis.tables.budgets_and_ranks import comparisons
from analysis.tables.text_tables import Head, Table, markdown, text, write_cell

Format = Literal["text", "csv", "markdown"]


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
        format: "text" (for a terminal), "markdown", or "csv" (every metric, mean and standard deviation apart, in full
            precision).
        metrics: The columns of the other two, as far as the runs have them.
        width: Characters a line of text may have; a wider table goes on below. Default: no limit.

    Raises:
        ValueError: If the format is none of these.
    """
    if format == "csv":
        if banner := board.attrs.get("banner"):
            board = board.assign(banner=banner)
        return board.to_csv(index=False, lineterminator="\n")
    if format not in ("text", "markdown"):
        raise ValueError(f"format must be text, csv or markdown, not {format!r}")

    tables = [*_boards(board, metrics), *comparisons(board)]
    notes = board.attrs.get("notes", [])
    return text(tables, notes, width) if format == "text" else markdown(tables, notes)


def sections(board: pd.DataFrame, metrics: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame, list[Metric]]]:
    """Split a board into its tables: the title, the rows and the metrics that at least one of them has."""
    for (dataset, architecture), rows in board.groupby(CELL, sort=False):
        has = [name for name in metrics if f"{name}_mean" in rows and rows[f"{name}_mean"].notna().any()]
        yield f"{dataset} · {architecture}", rows, [describe(name) for name in has]


def _boards(board: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Table]:
    """Make the table of each dataset and architecture; beside the metric ranked by stands the difference in it."""
    by = str(board.attrs["by"])
    for title, rows, shown in sections(board, metrics if by in metrics else (by, *metrics)):
        heads, body = [Head("#"), Head("method", left=True), Head("n")], rows.to_dict("records")
        columns = [["–" if pd.isna(row["rank"]) else str(row["rank"]) for row in body]]
        columns += [[str(row[name]) for row in body] for name in ("label", "n")]
        for metric in shown:
            heads.append(Head(metric.title, metric.unit, metric.arrow))
            columns.append([write_cell(row, metric) for row in body])
            if metric.name == by and rows["difference"].notna().any():
                heads.append(Head(f"Δ {metric.title} [95 %]", metric.unit, metric.arrow))
                columns.append([write_difference(row, by) for row in body])
        yield Table(title, heads, list(zip(*columns, strict=True)), repeated=3)
