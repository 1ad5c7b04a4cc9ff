"""Writes a leaderboard as a LaTeX table for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.comparisons.leaderboard import leaderboard
from analysis.frame.metric_display import Metric, describe
from analysis.tables.latex_document import banner_sentence, escape_latex
from analysis.tables.leaderboard_tables import split_board

LATEX_COLUMNS = (
    "accuracy",
    "bpc",
    "nll",
    "ece",
    "ood_auroc",
    "corruption_error",
    "generated/corruption_error",
    "train_cost",
    "predict_cost",
)
"""The default columns of a table, where the runs have them."""


def latex(
    board: pd.DataFrame,
    metrics: Sequence[str] = LATEX_COLUMNS,
    *,
    caption: str | None = None,
    label: str = "tab:leaderboard",
) -> str:
    r"""Write a leaderboard as a `table` environment with booktabs rules. The best mean of each column is bold.

    The best mean is that among the methods of one dataset and architecture. Means that are written the same as the best
    are bold too. Nothing is bold in columns of costs, of metrics without a better direction, and of metrics that only
    one method has. The table needs `\usepackage{booktabs}`.

    Args:
        board: What `leaderboard` returns, or the rows of `load_runs`.
        metrics: The columns, where the runs have them.
        caption: LaTeX that replaces the default caption, which describes the values and the number of seeds. The note
            that a study was only rehearsed is always kept.
        label: For `\ref`.
    """
    if "run_id" in board:
        board = leaderboard(board)
    shown = [describe(name) for name in metrics if _has_metric(board, name)]
    cells = list(split_board(board, metrics))
    body = pd.concat([_format_rows(rows, shown) for _, rows, _ in cells], ignore_index=True)
    titles = [title for title, _, _ in cells]
    caption = caption + banner_sentence(board) if caption else _caption(board, titles, metrics)
    body.index = pd.Index([escape_latex(str(name)) for name in board["label"]])
    body.columns = pd.Index([_header(metric) for metric in shown])
    written = body.style.to_latex(
        column_format="l" + "r" * len(shown),
        position="tb",
        position_float="centering",
        hrules=True,
        label=label,
        caption=caption,
    )
    return _insert_section_titles(str(written), cells) if len(cells) > 1 else str(written)


def _insert_section_titles(written: str, cells: Sequence[tuple[str, pd.DataFrame, list[Metric]]]) -> str:
    """Insert a rule and a title above the rows of each dataset and architecture."""
    head, _, rest = written.partition("\\midrule\n")
    lines = rest.splitlines(keepends=True)
    columns = lines[0].count(" & ") + 1
    body: list[str] = []
    for title, rows, _ in cells:
        body += ["\\midrule\n", f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{escape_latex(title)}}}}} \\\\\n"]
        body += lines[: len(rows)]
        lines = lines[len(rows) :]
    return head + "".join([*body, *lines])


def _has_metric(board: pd.DataFrame, name: str) -> bool:
    return f"{name}_mean" in board and bool(board[f"{name}_mean"].notna().any())


def _header(metric: Metric) -> str:
    arrow = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", None: ""}[metric.better]
    return f"{escape_latex(metric.header)}{arrow}"


def _format_rows(rows: pd.DataFrame, shown: Sequence[Metric]) -> pd.DataFrame:
    """Return the values of one dataset and architecture as LaTeX."""
    columns = {}
    for metric in shown:
        means = [metric.format_value(float(mean)) for mean in rows[f"{metric.name}_mean"]]
        best = best_mean(means, metric)
        stds = [metric.format_std(float(std)) for std in rows[f"{metric.name}_std"]]
        columns[metric.name] = [
            _format_figure(mean, std if metric.spread else "", bold=mean == best)
            for mean, std in zip(means, stds, strict=True)
        ]
    return pd.DataFrame(columns)


def best_mean(means: Sequence[str], metric: Metric) -> str | None:
    """Return the best mean as it is written, so that entries with the same written mean are treated the same.

    Args:
        means: The means, as `Metric.format_value` writes them.
        metric: Their metric.

    Returns:
        The best of them; None for costs, if neither direction is better, and if there is only one.
    """
    present = [mean for mean in means if mean]
    if metric.better is None or not metric.spread or len(present) < 2:
        return None
    return (max if metric.better == "higher" else min)(present, key=float)


def _format_figure(mean: str, std: str, *, bold: bool) -> str:
    if not mean:
        return "--"
    spread = f" \\pm {std}" if std != "n/a" else r" \pm \mathrm{n/a}"
    figure = (mean + spread if std else mean).replace("inf", r"\infty")
    return f"$\\mathbf{{{figure}}}$" if bold else f"${figure}$"


def _caption(board: pd.DataFrame, titles: Sequence[str], metrics: Sequence[str]) -> str:
    counts = sorted(int(n) for n in board["n"].unique())
    if len(counts) == 1:
        over = f"$n = {counts[0]}$ seed{'s' if counts[0] > 1 else ''}"
    else:
        over = f"$n = {counts[-1]}$ seeds (fewer for {_name_entries_with_fewer_seeds(board, titles)})"
    where = f"{escape_latex(titles[0])}, " if len(titles) == 1 else ""
    split = escape_latex(str(board["evaluated_on"].iloc[0]))
    split = split if where else split.capitalize()
    within = "" if len(titles) == 1 else " of each dataset and architecture"
    return (
        f"{where}{split} data: mean $\\pm$ sample standard deviation over {over}. "
        f"The best mean of each metric{within} is bold."
        f"{_tuning_sentences(board)}{_incomplete_metric_sentences(board, titles, metrics)}"
        f"{_left_out_sentence(board)}{_warning_sentences(board)}"
    )


def _name_entries_with_fewer_seeds(board: pd.DataFrame, titles: Sequence[str]) -> str:
    """Name the entries with fewer seeds than the others, with their number of seeds."""
    rows = board[board["n"] < board["n"].max()].to_dict("records")
    return "; ".join(f"{_entry_name(row, titles)}: {row['n']}" for row in rows)


def _incomplete_metric_sentences(board: pd.DataFrame, titles: Sequence[str], metrics: Sequence[str]) -> str:
    """Name the entries whose mean of a metric is over fewer seeds than n."""
    named = [
        f" {_entry_name(entry, titles)}: {escape_latex(describe(entry['metric']).title)} from {entry['present']} seeds."
        for entry in board.attrs.get("partial", [])
        if entry["metric"] in metrics
    ]
    return "".join(named)


def _tuning_sentences(board: pd.DataFrame) -> str:
    """Return the note on tuning and the note on a rehearsal."""
    return (f" {escape_latex(note)}" if (note := board.attrs.get("tuning")) else "") + banner_sentence(board)


def _left_out_sentence(board: pd.DataFrame) -> str:
    """Return the note on runs that were left out because they were chosen on test data."""
    return f" {escape_latex(note)}" if (note := board.attrs.get("left_out")) else ""


def _warning_sentences(board: pd.DataFrame) -> str:
    """Return the notes on unfinished runs and on too few seeds."""
    warnings = [note for note in board.attrs.get("notes", []) if note.startswith(("Not shown, ", "Warning: "))]
    # this table shows no differences
    return "".join(f" {escape_latex(note)}" for note in warnings if "Δ" not in note)


def _entry_name(row: Mapping[Any, object], titles: Sequence[str]) -> str:
    where = "" if len(titles) == 1 else f" on {row['dataset']}, {row['architecture']}"
    return escape_latex(f"{row['label']}{where}")
