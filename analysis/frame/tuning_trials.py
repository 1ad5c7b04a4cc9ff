"""Loads the hyperparameter searches of a study from MLflow: one row per trial."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from analysis.frame.runs import find_tracked_runs
from analysis.frame.tracking_store import resolve_store_uri


def load_tuning(study: str, *, store: str | None = None) -> pd.DataFrame:
    """Load the trials of a study's tuning, one row per trial, sorted by dataset, architecture, label and number.

    If a method was searched more than once (with another seed, recipe or space), only the latest search is loaded.

    The columns: `dataset`, `architecture`, `label`, `method` (with the trial's values), `metric` ("nll" or "accuracy"),
    `number` (of the trial), `state` ("finished", "pruned", "failed", "diverged", "refused" or "running"), `reason`
    (why the trial did not finish), `value` (of the metric on validation data: the final value, or the last value of a
    pruned trial; NaN if there is none), `values` (of the searched hyperparameters, a dict), `space` (their ranges, a
    dict of Optuna's distributions).

    Args:
        study: The study's name.
        store: The MLflow tracking store, as for `load_runs`.

    Raises:
        FileNotFoundError: If the store's file does not exist.
        LookupError: If the study was not tuned, or its trials were not tracked.
        ConnectionError: If a tracking server does not answer.
    """
    runs = find_tracked_runs(f"{study} · tuning", resolve_store_uri(store))
    latest: dict[tuple[str, str, str], Any] = {}
    for run in sorted(runs, key=lambda run: int(run.info.start_time)):
        if run.data.tags.get("role") == "search":
            latest[_searched_cell(run)] = run
    searches = {run.info.run_id: run for run in latest.values()}
    rows = [
        _row(run, searches[parent])
        for run in runs
        if run.data.tags.get("role") == "trial" and (parent := run.data.tags.get("mlflow.parentRunId")) in searches
    ]
    if not rows:
        raise LookupError(f"study {study!r} has no tracked trials: tune it with `econ tune`")
    return pd.DataFrame(rows).sort_values(["dataset", "architecture", "label", "number"], ignore_index=True)


def _searched_cell(run: Any) -> tuple[str, str, str]:
    tags = run.data.tags
    return tags["dataset"], tags["architecture"], tags["label"]


def _row(run: Any, search: Any) -> dict[str, object]:
    from optuna.distributions import json_to_distribution

    tags, metrics, metric = run.data.tags, run.data.metrics, search.data.tags["metric"]
    dataset, architecture, label = _searched_cell(search)
    space = {
        name: json_to_distribution(json.dumps(each)) for name, each in json.loads(search.data.tags["space"]).items()
    }
    return {
        "dataset": dataset,
        "architecture": architecture,
        "label": label,
        "method": tags["method"],
        "metric": metric,
        "number": int(tags["trial"]),
        "state": tags.get("state", "running"),
        "reason": tags.get("reason", ""),
        "value": metrics.get("value", metrics.get(f"validation/{metric}", float("nan"))),
        "values": json.loads(tags["values"]),
        "space": space,
    }
