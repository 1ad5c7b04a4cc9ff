"""The leaderboard as one web page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files

import jinja2
import pandas as pd

from analysis.leaderboard import clean, sections, write_cell
from analysis.metrics import SHOWN, Metric


def page(board: pd.DataFrame, metrics: Sequence[str] = SHOWN, *, title: str = "Leaderboard") -> str:
    """Write a leaderboard as HTML: sortable tables, readable on a phone and in the dark, no network.

    Args:
        board: What `leaderboard` returns.
        metrics: The columns, as far as the runs have them.
        title: The page's heading.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("analysis").joinpath("templates/leaderboard.html").read_text(encoding="utf-8")
    )
    tables = [
        {"title": clean(name), "metrics": shown, "rows": _rows(rows, shown)}
        for name, rows, shown in sections(board, metrics)
    ]
    return template.render(title=title, tables=tables, notes=board.attrs.get("notes", []))


def _rows(rows: pd.DataFrame, shown: Sequence[Metric]) -> list[dict[str, object]]:
    out: list[dict[str, object]] = []
    for row in rows.to_dict("records"):
        named = {str(name): value for name, value in row.items()}
        means = [float(named[f"{metric.name}_mean"]) for metric in shown]
        figures = [
            {"text": write_cell(named, metric), "value": "" if math.isnan(mean) else repr(mean)}
            for metric, mean in zip(shown, means, strict=True)
        ]
        rank = "" if pd.isna(named["rank"]) else str(named["rank"])
        out.append({"rank": rank, "label": clean(str(named["label"])), "n": named["n"], "figures": figures})
    return out
