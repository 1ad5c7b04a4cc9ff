"""Loads the settings of a study of the noisy quadratic problem: one row per setting."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from analysis.frame.runs import find_finished_runs, rehearsal_banner
from analysis.frame.tracking_store import resolve_store_uri


def load_settings(study: str, *, store: str | None = None, keys: Collection[str] | None = None) -> pd.DataFrame:
    """Load the finished settings of a study of the noisy quadratic problem, sorted by noise.

    The columns: `label`, `eta`, `B`, `key`, `run_id`, `store`, and the final metrics, among them `slope/late_phase`
    (of log loss over log K) and `slope/late_phase_se` (its standard error over seeds). `load_series` loads the curves,
    such as `members/late_phase`; their step is K.

    Args:
        study: The study's name, which is also the name of the MLflow experiment.
        store: The MLflow tracking store, as for `load_runs`.
        keys: Load only the settings with these keys. Default: all.

    Returns:
        One row per setting, sorted by η² / B, the noise that drives θ and φ out of balance; `attrs["unfinished"]` and
        `attrs["banner"]` as in `load_runs`.

    Raises:
        FileNotFoundError: If the store's file does not exist.
        LookupError: If the store has no such study, or the study has no finished setting.
        ValueError: If two finished runs have the same key.
        ConnectionError: If a tracking server does not answer.
    """
    uri = resolve_store_uri(store)
    finished, unfinished = find_finished_runs(study, uri, keys)
    rows = [
        {
            "label": run.data.tags["label"],
            "eta": float(run.data.params["eta"]),
            "B": float(run.data.params["B"]),
            "key": run.data.tags["key"],
            "run_id": run.info.run_id,
            "store": uri,
            **{name: float(value) for name, value in run.data.metrics.items() if not name.startswith("members/")},
        }
        for run in finished
    ]
    frame = pd.DataFrame(rows)
    order = (frame["eta"] ** 2 / frame["B"]).argsort(kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    frame.attrs["unfinished"] = unfinished
    if banner := rehearsal_banner(finished):
        frame.attrs["banner"] = banner
    return frame
