"""A paper's values and our runs, for tests of their comparison."""

import math

import pandas as pd

CELL = {"dataset": "cifar10", "architecture": "resnet20"}


def stated(*rows):
    """The paper's side: (row, column, label, metric, mean, std, n)."""
    keys = ("row", "column", "label", "metric", "paper_mean", "paper_std", "paper_n")
    usual = {"times": 1.0, "decimals": 2, "note": ""}
    frame = pd.DataFrame([CELL | usual | dict(zip(keys, row[:7], strict=True)) | dict(*row[7:]) for row in rows])
    frame["stated"] = [
        "" if math.isnan(m) else f"{m}" + ("" if math.isnan(s) else f" ± {s}")
        for m, s in zip(frame["paper_mean"], frame["paper_std"], strict=True)
    ]
    frame.attrs = {"source": "Nobody 2021, Table 1", "seeds": 5, "remark": ""}
    return frame


def ours(label, values, metric="accuracy"):
    usual = CELL | {"label": label, "method": label, "evaluated_on": "test", "chosen_on": ""}
    return [usual | {"seed": i, "key": f"{label}{i}", metric: value} for i, value in enumerate(values)]
