"""Loads the arrays that runs saved to files: predictions, paths, planes and flatness."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.frame.runs import read_npz


def load_predictions(frame: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load the predictions of a frame's runs on their evaluation examples.

    Args:
        frame: Rows of `load_runs`.

    Returns:
        For each run_id the member-averaged probabilities, float32 of shape (N, C), and the labels, int64 of
        shape (N,).

    Raises:
        FileNotFoundError: If the predictions of a run no longer exist.
        LookupError: If the runs predict text, for which probabilities are not saved.
    """
    stored = {row["run_id"]: read_npz(row, "predictions") for row in frame.to_dict("records")}
    if any("probabilities" not in arrays for arrays in stored.values()):
        raise LookupError("runs on text save only the likelihood of each symbol, not all probabilities")
    return {run_id: (arrays["probabilities"], arrays["labels"]) for run_id, arrays in stored.items()}


def load_arrays(frame: pd.DataFrame, name: str) -> dict[str, dict[str, np.ndarray]]:
    """Load the arrays of a landscape measurement, for the runs of a frame that have them.

    Args:
        frame: Rows of `load_runs`.
        name: "path", "plane" or "flatness".

    Returns:
        For each run_id its arrays by name. A path has alpha, accuracy, pair_accuracy …; a plane has x, y, anchors,
        accuracy …; flatness has sigma, loss, increase. Runs without the measurement are left out.

    Raises:
        LookupError: If no run has the measurement.
        FileNotFoundError: If the arrays of a run no longer exist.
    """
    rows = [row for row in frame.to_dict("records") if name in str(row.get("arrays", "")).split()]
    if not rows:
        raise LookupError(f"no run has measured a {name}: add `evaluate: {{{name}: true}}` to the study")
    prefix = f"{name}/"
    return {
        row["run_id"]: {
            key.removeprefix(prefix): array for key, array in read_npz(row, "arrays").items() if key.startswith(prefix)
        }
        for row in rows
    }
