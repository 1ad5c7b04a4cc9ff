"""Describes the unfinished runs of a frame, for notes below tables and in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pandas as pd

_MAX_LISTED = 5  # unfinished cells that a note names; the others are only counted
_REASON_LENGTH = 100  # maximum characters of a failure's reason


def unfinished_notes(frame: pd.DataFrame) -> list[str]:
    """Return a note for each state of the unfinished runs: how many there are, and the first few with reasons."""
    unfinished: list[dict[str, str]] = frame.attrs.get("unfinished", [])
    notes = []
    states = Counter(cell["state"] for cell in unfinished)
    for state, count in sorted(states.items()):
        cells = [cell for cell in unfinished if cell["state"] == state and "label" in cell]
        named = "; ".join(_cell_title(cell) for cell in cells[:_MAX_LISTED])
        more = f"; and {len(cells) - _MAX_LISTED} more" if len(cells) > _MAX_LISTED else ""
        runs = f"{count} run{'s' if count > 1 else ''}"
        notes.append(f"Not shown, {state}: {runs}{f' ({named}{more})' if named else ''}.")
    return notes


def _cell_title(cell: Mapping[str, str]) -> str:
    name = f"{cell['label']} · {cell['architecture']} · {cell['dataset']} · seed {cell['seed']}"
    lines = [line.strip() for line in cell.get("reason", "").splitlines() if line.strip()]
    if not lines:
        return name
    reason = lines[-1] if len(lines[-1]) <= _REASON_LENGTH else f"{lines[-1][: _REASON_LENGTH - 1]}…"
    return f"{name}: {reason}"


def unfinished_summary(frame: pd.DataFrame) -> str:
    """Count the unfinished runs in one line, as in "Runs not shown: 2 diverged, 1 missing."; "" if there are none.

    Args:
        frame: Rows of `load_runs`; only `attrs["unfinished"]` is read.
    """
    states = Counter(cell["state"] for cell in frame.attrs.get("unfinished", []))
    named = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"Runs not shown: {named}." if named else ""
