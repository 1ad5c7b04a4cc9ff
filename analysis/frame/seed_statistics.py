"""Means and spreads over seeds, and costs relative to plain training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.frame.metric_display import METRICS, describe

DATASET_AND_ARCHITECTURE = ["dataset", "architecture"]
ENTRY_COLUMNS = [*DATASET_AND_ARCHITECTURE, "label"]
_NOT_METRICS = ("seed",)
BACKWARD_COST = 2.0
"""A backward pass costs about two forward ones: gradients of the activations and of the weights."""


def relative_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what each run costs relative to plain training of one network on the same dataset and architecture.

    - `train_cost`: (forward + 2 · backward examples) over the mean of that of the runs whose method is `sgd`.
    - `train_time`: the same ratio of the seconds of training.
    - `predict_cost`: forward passes per predicted example; one network needs one.

    Nothing is guessed: where a dataset and architecture have no run of `sgd` (or several different entries of
    it), the first two are NaN, and a column that would be NaN everywhere is left out. `attrs["notes"]` says so.

    Args:
        frame: Rows of `load_runs`.

    Returns:
        A copy of the frame with up to three more columns.
    """
    out = frame.copy()
    notes = list(out.attrs.get("notes", []))
    work = _float_column(out, "cost/forward_examples") + BACKWARD_COST * _float_column(out, "cost/backward_examples")
    seconds = _float_column(out, "cost/train_seconds")
    reference = pd.DataFrame({"train_cost": float("nan"), "train_time": float("nan")}, index=out.index)
    for cell, rows in out.groupby(DATASET_AND_ARCHITECTURE).groups.items():
        plain, why = find_plain_training(out.loc[rows])
        if why:
            notes.append(f"{group_title(cell)}: no relative training cost ({why}).")
        else:
            reference.loc[rows, "train_cost"] = work[plain.index].mean()
            reference.loc[rows, "train_time"] = seconds[plain.index].mean()
    out["train_cost"] = work / reference["train_cost"]
    out["train_time"] = seconds / reference["train_time"]
    out["predict_cost"] = _float_column(out, "cost/forwards_per_example")
    costs = ["train_cost", "train_time", "predict_cost"]
    out = out.drop(columns=[name for name in costs if out[name].isna().all()])
    out.attrs["notes"] = notes
    return out


def find_plain_training(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Find the runs of plain training that the others of one dataset and architecture are compared with.

    Args:
        rows: Those of `load_runs` of one dataset and architecture.

    Returns:
        The runs of the only entry of `sgd`, one of each key (one run may stand under several labels), and ""; or, if
        there is none or more than one, no runs and the reason.
    """
    plain = rows[rows["method"] == "sgd"].drop_duplicates("key")
    labels = plain["label"].nunique()
    if labels == 1:
        return plain, ""
    return plain.head(0), f"{labels} different entries of sgd" if labels else "no finished run of sgd"


def default_metric(frame: pd.DataFrame) -> str:
    """Name the metric that ranks unless another is asked for: the accuracy, or of text the bits per character.

    Args:
        frame: Rows of `load_runs`, or a leaderboard.
    """
    return "bpc" if "bpc" in frame or "bpc_mean" in frame else "accuracy"


def lower_is_better_means(board: pd.DataFrame, name: str) -> pd.Series[float]:
    """Give a metric's means with the sign that makes smaller better, without the noise of rounding.

    Args:
        board: What `summarize` returns.
        name: The metric. One of which neither direction is better counts as if higher were better.
    """
    return board[f"{name}_mean"].round(9) * (1.0 if describe(name).better == "lower" else -1.0)


def group_title(cell: object) -> str:
    """Name a dataset and architecture, as in "cifar10 · resnet20"."""
    return " · ".join(str(part) for part in cell) if isinstance(cell, tuple) else str(cell)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Average every metric over the seeds of each (dataset, architecture, label).

    Args:
        frame: Rows of `load_runs`, with or without those of `relative_costs`.

    Returns:
        Columns dataset, architecture, label, method, n (the number of seeds), evaluated_on, and for each
        metric `<name>_mean` and `<name>_std`: the sample standard deviation (n − 1), NaN for a single seed.
        A value that a seed lacks is left out of both; `attrs["partial"]` and `attrs["notes"]` say where.

    Raises:
        ValueError: If test and validation figures are mixed, if one entry holds a seed twice, or if it holds
            different methods under one label.
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
    """Name the metric columns of a frame from `load_runs`: described ones first, in their order."""
    found = [str(name) for name in frame.select_dtypes("number").columns if name not in _NOT_METRICS]
    return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]


def check_comparable(frame: pd.DataFrame) -> None:
    """Refuse rows that do not belong in one table.

    Raises:
        ValueError: If test and validation figures are mixed, if one entry holds a seed twice, or if it holds
            different methods under one label.
    """
    splits = sorted(frame["evaluated_on"].unique())
    if len(splits) > 1:
        raise ValueError(f"figures on {' and '.join(splits)} data do not belong in one table: select one")
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
    """Find the described metrics that some seeds of an entry have and others lack."""
    found: list[dict[str, Any]] = []
    for name in filter(METRICS.__contains__, count.columns):
        for entry, present in zip(entries.to_dict("records"), count[name], strict=True):
            if 0 < present < entry["n"]:
                kept = {str(key): entry[key] for key in (*ENTRY_COLUMNS, "n")}
                found.append(kept | {"metric": name, "present": int(present)})
    return found


def _float_column(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    if name in frame:
        return frame[name].astype(float)
    return pd.Series(float("nan"), index=frame.index, dtype=float)
