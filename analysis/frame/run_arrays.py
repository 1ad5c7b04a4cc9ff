"""The arrays that runs left in files: what they predicted, and what was measured around their networks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.frame.runs import read_npz


def load_predictions(frame: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load what the runs of a frame predicted on their evaluation examples.

    Args:
        frame: Rows of `load_runs`.

    Returns:
        For each run_id the member-averaged probabilities, float32 of shape (N, C), and the labels, int64 of
        shape (N,).

    Raises:
        FileNotFoundError: If a run's predictions are gone.
        LookupError: If they are of text, of which they are not kept.
    """
    stored = {row["run_id"]: read_npz(row, "predictions") for row in frame.to_dict("records")}
    if any("probabilities" not in arrays for arrays in stored.values()):
        raise LookupError("of text, the likelihood of each symbol is kept, not all probabilities")
    return {run_id: (arrays["probabilities"], arrays["labels"]) for run_id, arrays in stored.items()}


def load_arrays(frame: pd.DataFrame, name: str) -> dict[str, dict[str, np.ndarray]]:
    """Load what evaluation measured around the networks of a frame's runs, where the study asked for it.

    Args:
        frame: Rows of `load_runs`.
        name: "path", "plane" or "flatness".

    Returns:
        For each run_id that has them the arrays by name: of a path alpha, accuracy, pair_accuracy …, of a plane x,
        y, anchors, accuracy …, of flatness sigma, loss, increase.

    Raises:
        LookupError: If no run has them.
        FileNotFoundError: If a run's arrays are gone.
    """
    rows = [row for row in frame.to_dict("records") if name in str(row.get("arrays", "")).split()]
    if not rows:
        raise LookupError(f"no run has a measured {name}: a study asks for it by `evaluate: {{{name}: true}}`")
    prefix = f"{name}/"
    return {
        row["run_id"]: {
            key.removeprefix(prefix): array for key, array in read_npz(row, "arrays").items() if key.startswith(prefix)
        }
        for row in rows
    }
