"""Writes leaderboards as text, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import pandas as pd

from analysis.comparisons.paired_differences import format_difference
from analysis.frame.metric_display import LEADERBOARD_COLUMNS, Metric, describe
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE
from analysis.tables.budgets_and_ranks import budget_and_rank_tables
from analysis.tables.text_tables import ColumnHead, TextTable, format_mean_and_std, render_markdown, render_text

Format = Literal["text", "csv", "markdown"]


def render(
    board: pd.DataFrame,
    format: Format = "text",
    *,
    metrics: Sequence[str] = LEADERBOARD_COLUMNS,
    width: int | None = None,
) -> str:
    """Write a leaderboard.

    Args:
        board: What `leaderboard` returns.
        format: "text" (for a terminal), "markdown", or "csv" (every metric, mean and standard deviation in separate
            columns, in full precision).
        metrics: The columns of text and Markdown, where the runs have them.
        width: Maximum characters per line of text; a wider table continues below. Default: no limit.

    Raises:
        ValueError: If the format is unknown.
    """
    if format == "csv":
        if banner := board.attrs.get("banner"):
            board = board.assign(banner=banner)
        return board.to_csv(index=False, lineterminator="\n")
    if format not in ("text", "markdown"):
        raise ValueError(f"format must be text, csv or markdown, not {format!r}")

    tables = [*_board_tables(board, metrics), *budget_and_rank_tables(board)]
    notes = board.attrs.get("notes", [])
    return render_text(tables, notes, width) if format == "text" else render_markdown(tables, notes)


def split_board(board: pd.DataFrame, metrics: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame, list[Metric]]]:
    """Split a board by dataset and architecture: the title, the rows, and the metrics that at least one row has."""
    for (dataset, architecture), rows in board.groupby(DATASET_AND_ARCHITECTURE, sort=False):
        has = [name for name in metrics if f"{name}_mean" in rows and rows[f"{name}_mean"].notna().any()]
        yield f"{dataset} · {architecture}", rows, [describe(name) for name in has]


def _board_tables(board: pd.DataFrame, metrics: Sequence[str]) -> Iterator[TextTable]:
    """Make the table of each dataset and architecture. The difference column follows the metric ranked by."""
    by = str(board.attrs["by"])
    for title, rows, shown in split_board(board, metrics if by in metrics else (by, *metrics)):
        heads, body = [ColumnHead("#"), ColumnHead("method", left=True), ColumnHead("n")], rows.to_dict("records")
        columns = [["–" if pd.isna(row["rank"]) else str(row["rank"]) for row in body]]
        columns += [[str(row[name]) for row in body] for name in ("label", "n")]
        for metric in shown:
            heads.append(ColumnHead(metric.title, metric.unit, metric.arrow))
            columns.append([format_mean_and_std(row, metric) for row in body])
            if metric.name == by and rows["difference"].notna().any():
                heads.append(ColumnHead(f"Δ {metric.title} [95 %]", metric.unit, metric.arrow))
                columns.append([format_difference(row, by) for row in body])
        yield TextTable(title, heads, list(zip(*columns, strict=True)), repeated_columns=3)
