"""Makes the report sections about single runs: their provenance, and the runs that did not finish."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from analysis.frame.run_provenance import PARAMETER_PREFIX, mlflow_ui_command
from analysis.frame.seed_statistics import DATASET_AND_ARCHITECTURE
from analysis.reports.page_elements import Column, Row, Section, Table, Value

_CODE_TAGS = {"commit": "Commit", "python": "Python", "torch": "PyTorch", "device": "Device"}
_MAX_NAMED = 3  # different values that a line lists
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
"""Parameters that a run's method expression, dataset, architecture or seed already states."""


def describe_code(made: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Describe the code, versions and devices of the finished runs, and warn where the code cannot be identified.

    Args:
        made: What `load_provenance` returns.

    Returns:
        The descriptions by name, and warnings: about several commits, and about uncommitted changes.
    """
    finished = made[made["state"] == "finished"]
    found = {name: sorted(set(finished[name]) - {""}) for name in _CODE_TAGS if name in finished}
    commits = found.get("commit", [])
    warnings = []
    if len(commits) > 1:
        warnings.append(f"The runs come from {len(commits)} different commits: {_list_first(commits)}.")
    if dirty := sum(str(commit).endswith("-dirty") for commit in finished.get("commit", [])):
        warnings.append(f"{_count_sentence(dirty)} made with uncommitted changes (“-dirty”).")
    return {_CODE_TAGS[name]: _list_first(values) for name, values in found.items() if values}, warnings


def unfinished_sections(frame: pd.DataFrame) -> list[Section]:
    """Return a section that lists the unfinished runs with their reasons; no section if there are none.

    Args:
        frame: Rows of `load_runs`; only `attrs["unfinished"]` is read.
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
            "These runs are in no table or plot above.",
            [Table(f"{_count_sentence(len(rows))} not finished", columns, rows)],
        )
    ]


def runs_section(made: pd.DataFrame, store: str) -> Section:
    """Make the section with the provenance of every run.

    For each dataset and architecture, one table shows the values that all finished runs share, another one the values
    that differ, with a row per run.

    Args:
        made: What `load_provenance` returns.
        store: The tracking store.
    """
    command = mlflow_ui_command(store)
    how = (
        f"To see the runs in MLflow, start `{command}` and look for the run's id."
        if command
        else "Each run links to its page in MLflow."
    )
    text = f"{how} Times are UTC. Hyperparameters that are not listed have the defaults of the method's version."
    tables = []
    for place, rows in made.groupby(list(DATASET_AND_ARCHITECTURE), sort=True):
        title = " · ".join(map(str, place))
        shared, different = _split_columns(rows)
        tables += [_shared_values_table(title, shared)] if shared else []
        tables.append(_runs_table(title, rows, different))
    return Section("Runs", text, tables)


def _split_columns(rows: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Split the columns into values that all finished runs share and names of columns that differ."""
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
    columns = [Column("Name", kind="name"), Column("Value", kind="code")]
    rows = [Row([Value(_column_title(name)), Value(value)]) for name, value in shared.items()]
    return Table(f"{title}: values that all finished runs share", columns, rows, title, folded=True, filtered=False)


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
    """Return a parameter's name as in study files, or a tag's name in words."""
    if column.startswith(PARAMETER_PREFIX):
        return column.removeprefix(PARAMETER_PREFIX)
    return _CODE_TAGS.get(column, column.replace("_", " ").capitalize())


def _number_value(text: str) -> Value:
    return Value(text, float(text)) if text else Value("")


def _time_value(moment: pd.Timestamp) -> Value:
    return Value("" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M:%S}")


def _reason_value(text: str) -> Value:
    """Return a value that shows a reason's last line (the error of a traceback) and opens to the full text."""
    lines = [line for line in text.splitlines() if line.strip()]
    return Value(lines[-1].strip() if lines else "", more=text if len(lines) > 1 else "")


def _count_sentence(runs: int) -> str:
    return "1 run was" if runs == 1 else f"{runs} runs were"


def _list_first(values: Sequence[str]) -> str:
    more = len(values) - _MAX_NAMED
    return ", ".join(values[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
