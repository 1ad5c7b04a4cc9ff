"""Costs relative to plain training of one network."""

from __future__ import annotations

import pandas as pd

from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE, group_title

BACKWARD_COST = 2.0
"""A backward pass costs about two forward passes: gradients of the activations and of the weights."""


def relative_costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the costs of each run relative to plain training of one network on the same dataset and architecture.

    - `train_cost`: forward + 2 · backward examples, divided by the mean of the same sum over the runs of `sgd`.
    - `train_time`: the same ratio for the seconds of training.
    - `predict_cost`: forward passes per predicted example; a single network needs one.

    The first two are NaN where a dataset and architecture have no run of `sgd`, or several different entries of `sgd`.
    `attrs["notes"]` says where. A column that would be NaN everywhere is left out.

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
    """Find the runs of plain training, the reference for the other runs of one dataset and architecture.

    Args:
        rows: Rows of `load_runs`, of one dataset and architecture.

    Returns:
        The runs of the only entry of `sgd` and "". Runs with the same key count once, because one run may have several
        labels. If there is no entry of `sgd` or more than one: no runs, and the reason.
    """
    plain = rows[rows["method"] == "sgd"].drop_duplicates("key")
    labels = plain["label"].nunique()
    if labels == 1:
        return plain, ""
    return plain.head(0), f"{labels} different entries of sgd" if labels else "no finished run of sgd"


def _float_column(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    if name in frame:
        return frame[name].astype(float)
    return pd.Series(float("nan"), index=frame.index, dtype=float)
