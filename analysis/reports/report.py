"""Builds the report of a study: one web page with leaderboards, costs, figures and the provenance of every run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pandas as pd

from analysis.comparisons.leaderboard import leaderboard
from analysis.frame.metric_display import describe
from analysis.frame.run_provenance import load_provenance, without_password
from analysis.frame.runs import ranked
from analysis.frame.unfinished_runs import unfinished_notes
from analysis.reports.leaderboard_sections import costs_section, leaderboards_section
from analysis.reports.page_elements import Drawing, Section
from analysis.reports.run_sections import describe_code, runs_section, unfinished_sections
from analysis.reports.table_sections import text_tables_section
from analysis.reports.web_page import write_page
from analysis.tables.budgets_and_ranks import budget_and_rank_tables


def report(
    frame: pd.DataFrame,
    *,
    by: str | None = None,
    extra: Sequence[Section] = (),
    written: datetime | None = None,
    tell: Callable[[str], None] | None = None,
) -> str:
    """Write the report of a study as one self-contained web page.

    The page starts with warnings: unfinished runs, metrics that some seeds lack, runs from different commits. A
    leaderboard and the costs follow for each dataset and architecture, then all plots that the runs allow, the
    unfinished runs with their reasons, and the provenance of each run. If the files of a plot no longer exist, the
    page shows a warning instead.

    Args:
        frame: Rows of `load_runs`, of one study; their series, predictions and arrays are read. `attrs["banner"]` may
            hold a line for the top, `attrs["description"]` a description of the study, `attrs["tuning"]` a note on
            its tuning.
        by: The metric to rank by, as for `leaderboard`.
        extra: Further sections, between the costs and the plots.
        written: The time of writing. Default: now.
        tell: Called with a progress message before each step that takes long.

    Returns:
        HTML.

    Raises:
        LookupError, ValueError: As `leaderboard` and `load_provenance` do.
        FileNotFoundError, ConnectionError: If the store cannot be read.
    """
    tell = tell or (lambda line: None)
    board = leaderboard(frame, by)
    tell("loading the provenance of the runs")
    provenance = load_provenance(frame)
    drawings, undrawn, lost = draw_plots(ranked(frame), tell, by)
    store = str(frame["store"].iloc[0])
    comparison_tables = budget_and_rank_tables(board)
    sections = [
        leaderboards_section(board),
        *([text_tables_section("Budgets and average ranks", "", comparison_tables)] if comparison_tables else []),
        costs_section(board),
        *extra,
        Section("Plots", drawings=drawings, notes=undrawn),
        *unfinished_sections(frame),
        runs_section(provenance, store),
    ]
    code, code_warnings = describe_code(provenance)
    banner = str(frame.attrs.get("banner", ""))
    seeds, *notes = (note for note in board.attrs["notes"] if note != banner and not note.startswith("Δ:"))
    about = {
        "Study": str(frame.attrs.get("description", "")),
        "Figures": seeds,
        "Ranked by": describe(board.attrs["by"]).title,
        "Notes": board.attrs["tuning"],
        "Seeds": ", ".join(str(seed) for seed in sorted(frame["seed"].unique())),
        **code,
        "Tracked in": without_password(store),
        "Written": f"{written or datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    warnings = [*lost, *code_warnings, *unfinished_notes(frame)]
    return write_page(
        f"Study {frame['study'].iloc[0]}",
        sections,
        about={name: text for name, text in about.items() if text},
        warnings=[*warnings, *(note for note in notes if note not in (board.attrs["tuning"], *warnings))],
        banner=banner,
        tell=tell,
    )


def draw_plots(
    frame: pd.DataFrame, tell: Callable[[str], None], by: str | None = None
) -> tuple[list[Drawing], list[str], list[str]]:
    """Draw all plots that the runs allow.

    Args:
        frame: Rows of `load_runs`.
        tell: Called with a progress message before each plot.
        by: The metric for plots that rank or compare by one, as for `report`.

    Returns:
        The drawings, notes on plots that do not apply to these runs, and notes on plots whose files no longer exist.
    """
    from analysis.figures import PLOTS

    drawings, undrawn, lost = [], [], []
    for name, plot in PLOTS.items():
        tell(f"drawing {name}")
        try:
            figure = plot(frame, by=by) if "by" in inspect.signature(plot).parameters else plot(frame)
        except (KeyError, IndexError):
            raise  # a bug in the plot, although Python makes it a LookupError
        except LookupError as error:
            undrawn.append(f"No plot {name}: {error}")
        except OSError as error:
            lost.append(f"No plot {name}, because its data cannot be read: {error}")
        else:
            drawings.append(Drawing(name.capitalize(), figure, plot_caption(plot)))
    return drawings, undrawn, lost


def plot_caption(plot: Callable[..., object]) -> str:
    """Return the caption of a plot: its docstring up to the arguments, without code formatting."""
    text = (inspect.getdoc(plot) or "").partition("\n\nArgs:")[0]
    text = re.sub(r" \(`[^`]*`\)", "", text).replace("`", "")
    text = " ".join(text.split()).removeprefix("Plot ")
    return text[:1].upper() + text[1:]
