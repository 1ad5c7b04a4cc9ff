"""The report of a study: leaderboards, costs, figures and the provenance of every run, in one file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.comparisons.leaderboard import leaderboard
from analysis.comparisons.paired_differences import format_difference
from analysis.frame.metric_display import LEADERBOARD_COLUMNS, Metric, describe
from analysis.frame.run_provenance import load_provenance, without_password
from analysis.frame.runs import ranked
from analysis.frame.unfinished_runs import unfinished_notes
from analysis.reports.run_sections import describe_code, runs_section, unfinished_sections
from analysis.reports.table_sections import text_tables_section
from analysis.reports.web_page import Column, Drawing, Row, Section, Table, Value, write_page
from analysis.tables.budgets_and_ranks import budget_and_rank_tables
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
"""The columns of the costs, as far as the runs have them."""
_COSTS_INTRODUCTION = (
    "× is relative to plain training of one network on the same data; a backward pass counts as two forward ones. "
    "Costs are of each method trained alone; “spent” is what its runs took here, where runs share what they have in "
    "common."
)


_LEADERBOARDS_INTRODUCTION = (
    "Δ is the mean difference to plain training over common seeds, with its 95 % interval (studentised bootstrap; of "
    "two to four seeds or near ties Student's t; not corrected for the number of entries): where that holds zero, the "
    "difference may be chance."
)


def report(
    frame: pd.DataFrame,
    *,
    by: str | None = None,
    extra: Sequence[Section] = (),
    written: datetime | None = None,
    tell: Callable[[str], None] | None = None,
) -> str:
    """Write the report of a study as one web page that needs nothing else.

    It holds what a reader must know first (what is unfinished, partly measured, or of mixed code), a leaderboard
    and the costs of each dataset and architecture, all plots that the runs allow, the unfinished runs with their
    reasons, and what each run was made with. A plot whose files are gone is a warning on the page.

    Args:
        frame: Rows of `load_runs`, of one study; their series, predictions and arrays are read. `attrs["banner"]` may
            hold a line for the top, `attrs["description"]` what the study is, `attrs["tuning"]` what was tuned.
        by: The metric to rank by, as for `leaderboard`.
        extra: Further parts, between the costs and the plots.
        written: When. Default: now.
        tell: Called with a line before each step that takes long.

    Returns:
        HTML.

    Raises:
        LookupError, ValueError: As `leaderboard` and `load_provenance` do.
        FileNotFoundError, ConnectionError: If the store cannot be read.
    """
    tell = tell or (lambda line: None)
    board = leaderboard(frame, by)
    tell("reading what the runs were made with")
    made = load_provenance(frame)
    drawings, undrawn, lost = draw_plots(ranked(frame), tell, by)
    banner = str(frame.attrs.get("banner", ""))
    seeds, *notes = (note for note in board.attrs["notes"] if note != banner and not note.startswith("Δ:"))
    compared = budget_and_rank_tables(board)
    parts = [
        Section(
            "Leaderboards",
            _LEADERBOARDS_INTRODUCTION if board["difference"].notna().any() else "",
            tables=leaderboard_tables(board),
        ),
        *([text_tables_section("Compared", "", compared)] if compared else []),
        Section("Costs", _COSTS_INTRODUCTION, tables=cost_tables(board)),
        *extra,
        Section("Plots", drawings=drawings, notes=undrawn),
        *unfinished_sections(frame),
        runs_section(made, str(frame["store"].iloc[0])),
    ]
    described, mixed = describe_code(made)
    first = [*lost, *mixed, *unfinished_notes(frame)]
    about = {
        "Study": str(frame.attrs.get("description", "")),
        "Figures": seeds,
        "Ranked by": describe(board.attrs["by"]).title,
        "Tuning": board.attrs["tuning"],
        "Seeds": ", ".join(str(seed) for seed in sorted(frame["seed"].unique())),
        **described,
        "Tracked in": without_password(str(frame["store"].iloc[0])),
        "Written": f"{written or datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return write_page(
        f"Study {frame['study'].iloc[0]}",
        parts,
        about={name: text for name, text in about.items() if text},
        warnings=[*first, *(note for note in notes if note not in (board.attrs["tuning"], *first))],
        banner=banner,
        tell=tell,
    )


def leaderboard_tables(board: pd.DataFrame, shown: Sequence[str] = LEADERBOARD_COLUMNS) -> list[Table]:
    """Make a table of each dataset and architecture: ranks, and every metric there is.

    Args:
        board: What `leaderboard` returns.
        shown: The metrics that show at first.
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
    """Make the table of one dataset and architecture; beside the metric ranked by stands the difference in it."""
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
    """Make a table of the costs on each dataset and architecture, in the order of the ranks.

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


def draw_plots(
    frame: pd.DataFrame, tell: Callable[[str], None], by: str | None = None
) -> tuple[list[Drawing], list[str], list[str]]:
    """Draw all plots that the runs allow.

    Args:
        frame: Rows of `load_runs`.
        tell: Called with a line before each of them.
        by: The metric of those that rank or weigh, as for `report`.

    Returns:
        The drawings, why others do not apply to these runs, and which could not be drawn because files are gone.
    """
    from analysis.figures import PLOTS

    drawings, undrawn, lost = [], [], []
    for name, plot in PLOTS.items():
        tell(f"drawing {name}")
        try:
            figure = plot(frame, by=by) if "by" in inspect.signature(plot).parameters else plot(frame)
        except (KeyError, IndexError):
            raise  # a mistake of the plot, though Python calls it a LookupError
        except LookupError as error:
            undrawn.append(f"No plot {name}: {error}")
        except OSError as error:
            lost.append(f"No plot {name}, for what it shows cannot be read: {error}")
        else:
            drawings.append(Drawing(name.capitalize(), figure, plot_caption(plot)))
    return drawings, undrawn, lost


def plot_caption(plot: Callable[..., object]) -> str:
    """Say what a plot shows, in the words of its docstring: all before its arguments, without names of code."""
    text = (inspect.getdoc(plot) or "").partition("\n\nArgs:")[0]
    text = re.sub(r" \(`[^`]*`\)", "", text).replace("`", "")
    text = " ".join(text.split()).removeprefix("Plot ")
    return text[:1].upper() + text[1:]


def _entry_values(rows: pd.DataFrame, metrics: Sequence[Metric]) -> list[tuple[dict[str, Any], list[Value]]]:
    """Give each entry with the values of its metrics; the best means are marked as in a LaTeX table."""
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
