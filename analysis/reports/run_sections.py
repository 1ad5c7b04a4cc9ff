"""The parts of a report on single runs: what each was made with, and what did not finish."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from analysis.frame.run_provenance import PARAMETER_PREFIX, mlflow_ui_command
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE
from analysis.reports.web_page import Column, Row, Section, Table, Value

_CODE_TAGS = {"commit": "Commit", "python": "Python", "torch": "PyTorch", "device": "Device"}
_MAX_NAMED = 3  # different values that a line names
_COLUMNS_SHOWN_ELSEWHERE = (
    "label",
    "method",
    "seed",
    "key",
    "run_id",
    "experiment_id",
    "state",
    "reason",
    "started",
    "ended",
    "link",
    *DATASET_AND_ARCHITECTURE,
)
_REDUNDANT_PARAMETERS = re.compile(
    r"params/(seed|architecture|dataset\.name|method\.version|method(\.of)*\.(name|of|hyperparameters\..*))$"
)
"""Parameters that a run's method, as it is written, says already, or its place."""


def describe_code(made: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Say what code, versions and devices the finished runs were made with, and warn where that is in doubt.

    Args:
        made: What `load_provenance` returns.

    Returns:
        What to say, by name; and warnings: of more than one commit, and of code that no commit has.
    """
    finished = made[made["state"] == "finished"]
    found = {name: sorted(set(finished[name]) - {""}) for name in _CODE_TAGS if name in finished}
    commits = found.get("commit", [])
    warnings = []
    if len(commits) > 1:
        warnings.append(f"The runs were made by {len(commits)} different commits: {_list_first(commits)}.")
    if dirty := sum(str(commit).endswith("-dirty") for commit in finished.get("commit", [])):
        warnings.append(f"{_count_sentence(dirty)} made by code with changes that no commit has (“-dirty”).")
    return {_CODE_TAGS[name]: _list_first(values) for name, values in found.items() if values}, warnings


def unfinished_sections(frame: pd.DataFrame) -> list[Section]:
    """Name the runs that are not finished, with their reasons; no section if there are none.

    Args:
        frame: Rows of `load_runs`; it is `attrs["unfinished"]` that is read.
    """
    cells: list[dict[str, str]] = frame.attrs.get("unfinished", [])
    if not cells:
        return []
    columns = [
        Column("Method", kind="name"),
        Column("Data and network", kind="text"),
        Column("Seed"),
        Column("State", kind="text"),
        Column("Reason", kind="text"),
    ]
    rows = [
        Row(
            [
                Value(cell.get("label", "") or "not tracked"),
                Value(" · ".join(cell[name] for name in DATASET_AND_ARCHITECTURE) if "dataset" in cell else ""),
                _number_value(cell.get("seed", "")),
                Value(cell["state"]),
                _reason_value(cell.get("reason", "")),
            ],
            find=cell.get("key", ""),
        )
        for cell in sorted(cells, key=lambda cell: (cell["state"], cell.get("label", ""), cell.get("seed", "")))
    ]
    return [
        Section(
            "Unfinished runs",
            "In no figure above.",
            [Table(f"{_count_sentence(len(rows))} not finished", columns, rows)],
        )
    ]


def runs_section(made: pd.DataFrame, store: str) -> Section:
    """Show what each run was made with: what all of a dataset and architecture share once, the rest run by run.

    Args:
        made: What `load_provenance` returns.
        store: The tracking store.
    """
    command = mlflow_ui_command(store)
    how = (
        f"To see them in MLflow: {command}, then look for the run's id." if command else "Each links to its MLflow run."
    )
    text = f"{how} Times are UTC. A hyperparameter that is not written has the default of its method's version."
    tables = []
    for place, rows in made.groupby(list(DATASET_AND_ARCHITECTURE), sort=True):
        title = " · ".join(map(str, place))
        shared, different = _split_columns(rows)
        tables += [_shared_values_table(title, shared)] if shared else []
        tables.append(_runs_table(title, rows, different))
    return Section("Runs", text, tables)


def _split_columns(rows: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Tell what all finished runs share from what differs; what says nothing about any run is neither."""
    names = [
        str(name)
        for name in rows
        if name not in _COLUMNS_SHOWN_ELSEWHERE and not _REDUNDANT_PARAMETERS.match(str(name))
    ]
    finished = rows[rows["state"] == "finished"]
    base = finished if len(finished) else rows
    shared = {name: str(base[name].iloc[0]) for name in names if base[name].nunique() == 1 and base[name].iloc[0]}
    empty = {name for name in names if set(base[name]) <= {"", "None"} and name.startswith(f"{PARAMETER_PREFIX}method")}
    different = [name for name in names if base[name].nunique() > 1 and name not in empty]
    return {name: value for name, value in shared.items() if name not in empty}, different


def _shared_values_table(title: str, shared: dict[str, str]) -> Table:
    columns = [Column("What", kind="name"), Column("Value", kind="code")]
    rows = [Row([Value(_column_title(name)), Value(value)]) for name, value in shared.items()]
    return Table(f"{title}: what all finished runs share", columns, rows, title, folded=True, filtered=False)


def _runs_table(title: str, rows: pd.DataFrame, different: Sequence[str]) -> Table:
    columns = [
        Column("Method", kind="name"),
        Column("Seed"),
        Column("State", kind="text"),
        Column("Method as run", kind="code"),
        *(Column(_column_title(name), kind="code") for name in different),
        Column("Started", kind="code"),
        Column("Ended", kind="code"),
        Column("Key", kind="code"),
        Column("MLflow run", kind="code"),
    ]
    body = [
        Row(
            [
                Value(run["label"]),
                _number_value(str(run["seed"])),
                Value(run["state"], more=run["reason"]),
                Value(run["method"]),
                *(Value(str(run[name])) for name in different),
                _time_value(run["started"]),
                _time_value(run["ended"]),
                Value(run["key"]),
                Value(run["run_id"], link=run["link"]),
            ],
            find=f"{run['method']} {run['key']} {run['run_id']} {run['state']} seed {run['seed']}",
        )
        for run in rows.to_dict("records")
    ]
    return Table(f"{title}: runs", columns, body, title, folded=True)


def _column_title(column: str) -> str:
    """Call a parameter as a study file does, and a tag in words."""
    if column.startswith(PARAMETER_PREFIX):
        return column.removeprefix(PARAMETER_PREFIX)
    return _CODE_TAGS.get(column, column.replace("_", " ").capitalize())


def _number_value(text: str) -> Value:
    return Value(text, float(text)) if text else Value("")


def _time_value(moment: pd.Timestamp) -> Value:
    return Value("" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M:%S}")


def _reason_value(text: str) -> Value:
    """Show a reason's last line, which of a traceback is the error; the rest opens."""
    lines = [line for line in text.splitlines() if line.strip()]
    return Value(lines[-1].strip() if lines else "", more=text if len(lines) > 1 else "")


def _count_sentence(runs: int) -> str:
    return "1 run was" if runs == 1 else f"{runs} runs were"


def _list_first(values: Sequence[str]) -> str:
    more = len(values) - _MAX_NAMED
    return ", ".join(values[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
