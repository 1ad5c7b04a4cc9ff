"""Computes means and standard deviations over seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.frame.metric_display import METRICS, describe

DATASET_AND_ARCHITECTURE = ["dataset", "architecture"]
ENTRY_COLUMNS = [*DATASET_AND_ARCHITECTURE, "label"]
_NOT_METRICS = ("seed",)


def default_metric(frame: pd.DataFrame) -> str:
    """Return the metric that ranks by default: the accuracy, or bits per character for text.

    Args:
        frame: Rows of `load_runs`, or a leaderboard.
    """
    return "bpc" if "bpc" in frame or "bpc_mean" in frame else "accuracy"


def lower_is_better_means(board: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a metric's means with their sign chosen so that lower is better, rounded to hide floating-point noise.

    Args:
        board: What `summarize` returns.
        name: The metric. If neither direction is better, higher is treated as better.
    """
    return board[f"{name}_mean"].round(9) * (1.0 if describe(name).better == "lower" else -1.0)


def group_title(cell: object) -> str:
    """Return the title of a group, as in "cifar10 · resnet20" for a dataset and architecture."""
    return " · ".join(str(part) for part in cell) if isinstance(cell, tuple) else str(cell)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Average every metric over the seeds of each (dataset, architecture, label).

    Args:
        frame: Rows of `load_runs`, with or without the columns of `relative_costs`.

    Returns:
        Columns dataset, architecture, label, method, n (the number of seeds), evaluated_on, and for each
        metric `<name>_mean` and `<name>_std`: the sample standard deviation (n − 1), NaN for a single seed.
        Seeds without a value are left out of both; `attrs["partial"]` and `attrs["notes"]` say where.

    Raises:
        ValueError: If test and validation scores are mixed, if one entry has a seed twice, or if one label stands for
            different methods.
    """
    check_comparable(frame)
    names = metric_names(frame)
    groups = frame.groupby(ENTRY_COLUMNS, sort=True)
    out = groups.agg(method=("method", "first"), n=("seed", "size"), evaluated_on=("evaluated_on", "first"))
    values = groups[names]
    mean, std, count = values.mean(), values.std(ddof=1), values.count()
    columns = {f"{name}_mean": mean[name] for name in names} | {f"{name}_std": std[name] for name in names}
    ordered = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    out = pd.concat([out, pd.DataFrame(columns, index=out.index)[ordered]], axis=1).reset_index()
    partial = _find_incomplete_metrics(out, count)
    notes = [
        f"{entry['label']} ({entry['dataset']} · {entry['architecture']}): {describe(entry['metric']).title} "
        f"from {entry['present']} of {entry['n']} seeds."
        for entry in partial
    ]
    out.attrs = {**frame.attrs, "partial": partial, "notes": [*frame.attrs.get("notes", []), *notes]}
    return out


def metric_names(frame: pd.DataFrame) -> list[str]:
    """Return the metric columns of a frame from `load_runs`: those in `METRICS` first, in its order."""
    found = [str(name) for name in frame.select_dtypes("number").columns if name not in _NOT_METRICS]
    return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]


def check_comparable(frame: pd.DataFrame) -> None:
    """Raise an error for rows that must not be combined in one table.

    Raises:
        ValueError: If test and validation scores are mixed, if one entry has a seed twice, or if one label stands for
            different methods.
    """
    splits = sorted(frame["evaluated_on"].unique())
    if len(splits) > 1:
        raise ValueError(f"scores on {' and '.join(splits)} data cannot be in one table: select one")
    for entry, rows in frame.groupby(ENTRY_COLUMNS):
        name = group_title(entry)
        twice = rows[rows["seed"].duplicated(keep=False)]
        if len(twice):
            keys = ", ".join(key[:12] for key in twice["key"])
            raise ValueError(f"{name} has seed {twice['seed'].iloc[0]} more than once (keys {keys}): pass `keys`")
        if rows["method"].nunique() > 1:
            methods = ", ".join(sorted(rows["method"].unique()))
            raise ValueError(f"{name} stands for different methods ({methods}): pass `keys`")


def _find_incomplete_metrics(entries: pd.DataFrame, count: pd.DataFrame) -> list[dict[str, Any]]:
    """Find the metrics of `METRICS` that some seeds of an entry have and others lack."""
    found: list[dict[str, Any]] = []
    for name in filter(METRICS.__contains__, count.columns):
        for entry, present in zip(entries.to_dict("records"), count[name], strict=True):
            if 0 < present < entry["n"]:
                kept = {str(key): entry[key] for key in (*ENTRY_COLUMNS, "n")}
                found.append(kept | {"metric": name, "present": int(present)})
    return found
