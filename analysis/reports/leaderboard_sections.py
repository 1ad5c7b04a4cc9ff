"""Makes the report sections of the leaderboards and of the costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.comparisons.paired_differences import format_difference
from analysis.frame.metric_display import LEADERBOARD_COLUMNS, Metric
from analysis.reports.page_elements import Column, Row, Section, Table, Value
from analysis.tables.latex_leaderboard import best_mean
from analysis.tables.leaderboard_tables import split_board
from analysis.tables.text_tables import format_mean_and_std

COST_METRICS = (
    "train_cost",
    "train_time",
    "predict_cost",
    "cost/train_seconds",
    "spent/train_seconds",
    "cost/seconds_per_1000_predictions",
    "cost/forward_examples",
    "cost/backward_examples",
    "cost/optimizer_steps",
    "cost/peak_memory_bytes",
    "cost/parameters_trained",
    "cost/parameters_kept",
    "cost/forwards_per_example",
)
"""The columns of the cost tables, where the runs have them."""


_COSTS_INTRODUCTION = (
    "× is relative to plain training of one network on the same data; a backward pass counts as two forward ones. "
    "Costs are those of each method trained alone; “spent” is the cost of its runs in this study, where runs share "
    "common training."
)


_LEADERBOARDS_INTRODUCTION = (
    "Δ is the mean difference to plain training over common seeds, with its 95 % interval (studentised bootstrap; of "
    "two to four seeds or near ties Student's t; not corrected for the number of entries). If the interval "
    "contains zero, the difference may be chance."
)


def leaderboards_section(board: pd.DataFrame) -> Section:
    """Make the section with the leaderboards.

    Args:
        board: What `leaderboard` returns.
    """
    introduction = _LEADERBOARDS_INTRODUCTION if board["difference"].notna().any() else ""
    return Section("Leaderboards", introduction, tables=leaderboard_tables(board))


def costs_section(board: pd.DataFrame) -> Section:
    """Make the section with the costs.

    Args:
        board: What `leaderboard` returns.
    """
    return Section("Costs", _COSTS_INTRODUCTION, tables=cost_tables(board))


def leaderboard_tables(board: pd.DataFrame, shown: Sequence[str] = LEADERBOARD_COLUMNS) -> list[Table]:
    """Make a table for each dataset and architecture, with the ranks and every metric.

    Args:
        board: What `leaderboard` returns.
        shown: The metrics that are shown at first; readers can show the others.
    """
    named = [str(name).removesuffix("_mean") for name in board if str(name).endswith("_mean")]
    metrics = [*(name for name in shown if name in named), *(name for name in named if name not in shown)]
    return [
        _leaderboard_table(place, rows, found, shown, str(board.attrs["by"]))
        for place, rows, found in split_board(board, metrics)
    ]


def _leaderboard_table(
    place: str, rows: pd.DataFrame, metrics: Sequence[Metric], shown: Sequence[str], by: str
) -> Table:
    """Make the table of one dataset and architecture. The difference column follows the metric ranked by."""
    columns = [Column("#", sorted="ascending"), Column("Method", kind="name"), Column("n")]
    differs = bool(rows["difference"].notna().any())
    for metric in metrics:
        columns.append(Column.of(metric, choosable=True, shown=metric.name in (*shown, by)))
        if metric.name == by and differs:
            columns.append(Column(f"Δ {metric.title} [95 %]", metric.unit, metric.better))
    body = []
    for entry, figures in _entry_values(rows, metrics):
        if differs:
            after = [metric.name for metric in metrics].index(by) + 1
            figures.insert(after, Value.number(float(entry["difference"]), format_difference(entry, by)))
        first = [_rank_value(entry), Value(str(entry["label"])), Value(str(entry["n"]), float(entry["n"]))]
        body.append(Row([*first, *figures], find=str(entry["method"])))
    return Table(place, columns, body, place)


def cost_tables(board: pd.DataFrame) -> list[Table]:
    """Make a cost table for each dataset and architecture, in the order of the ranks.

    Args:
        board: What `leaderboard` returns.
    """
    return [
        Table(
            place,
            [Column("Method", kind="name"), *(Column.of(metric) for metric in found)],
            [
                Row([Value(str(entry["label"])), *figures], find=str(entry["method"]))
                for entry, figures in _entry_values(rows, found)
            ],
            place,
        )
        for place, rows, found in split_board(board, COST_METRICS)
        if found
    ]


def _entry_values(rows: pd.DataFrame, metrics: Sequence[Metric]) -> list[tuple[dict[str, Any], list[Value]]]:
    """Return each entry with the values of its metrics; the best means are marked as in a LaTeX table."""
    entries = [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
    columns = []
    for metric in metrics:
        means = [float(mean) for mean in rows[f"{metric.name}_mean"]]
        written = [metric.format_value(mean) for mean in means]
        best = None if metric.name in COST_METRICS else best_mean(written, metric)
        columns.append(
            [
                Value.number(mean, format_mean_and_std(entry, metric), best=text == best)
                for entry, mean, text in zip(entries, means, written, strict=True)
            ]
        )
    return [(entry, [column[i] for column in columns]) for i, entry in enumerate(entries)]


def _rank_value(entry: Mapping[str, Any]) -> Value:
    rank = entry["rank"]
    return Value("") if pd.isna(rank) else Value(str(rank), float(str(rank)))
