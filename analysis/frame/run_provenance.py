"""Loads the provenance of runs: code, versions, device, hyperparameters, and the address of each run in MLflow."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pandas as pd
from pandas.api.typing import NaTType

from analysis.frame.runs import find_tracked_runs

_CELL_TAGS = ("label", "method", "dataset", "architecture", "seed", "key")
_LEADING_COLUMNS = (*_CELL_TAGS, "run_id", "experiment_id", "state", "reason", "started", "ended", "link")
_OMITTED_TAGS = ("role", "evaluated_on", "chosen_on", "arrays")
PARAMETER_PREFIX = "params/"
"""The prefix of the columns that hold parameters."""


def load_provenance(frame: pd.DataFrame) -> pd.DataFrame:
    """Load the provenance of a frame's runs, followed by that of the study's unfinished runs.

    The columns:

    - `label`, `method`, `dataset`, `architecture`, `seed` (int), `key`, `run_id`: as in `load_runs`
    - `experiment_id` (MLflow's number of the study), `state` ("finished", "failed", "diverged", "running" …), `reason`
      (why the run is not finished; "" for a finished run)
    - `started`, `ended`: start and end of the MLflow run (UTC); NaT where MLflow has none
    - `link`: the address of the run on the tracking server; "" if the store is not a server (see `mlflow_ui_command`)
    - every other tag under its own name, as text, "" where a run lacks it: `commit` (ends with "-dirty" if files
      were changed), `python`, `torch`, `device`, `threads`, `method_version` …; MLflow's own tags are left out
    - every parameter as `params/NAME`, as text, "" where a run lacks it: `params/recipe.lr`,
      `params/method.hyperparameters.K` …; a hyperparameter that is not listed has the default of its method's version

    Args:
        frame: Rows of `load_runs`, of one study and store.

    Raises:
        FileNotFoundError, LookupError, ConnectionError: As `load_runs` does.
        LookupError: If a run of the frame is no longer in the store.
        ValueError: If the frame's rows come from several studies or stores.
    """
    origins = frame[["study", "store"]].drop_duplicates()
    if len(origins) != 1:
        raise ValueError(f"provenance can be loaded for one study in one store at a time, not for {len(origins)}")
    study, uri = origins.iloc[0]
    tracked = {run.info.run_id: run for run in find_tracked_runs(str(study), str(uri))}
    lost = [run_id for run_id in frame["run_id"] if run_id not in tracked]
    if lost:
        store = without_password(str(uri))
        raise LookupError(
            f"{len(lost)} runs of the frame are no longer in study {study!r} in {store}, for example {lost[0]}"
        )
    wanted = [(row["run_id"], row["label"]) for row in frame.to_dict("records")]
    wanted += [(cell["run_id"], cell["label"]) for cell in frame.attrs.get("unfinished", []) if "run_id" in cell]
    table = pd.DataFrame([_row(tracked[run_id], label, str(uri)) for run_id, label in wanted if run_id in tracked])
    texts = [name for name in table.columns if name not in ("started", "ended")]
    table[texts] = table[texts].fillna("")
    order = sorted(table.columns, key=lambda name: (name.startswith(PARAMETER_PREFIX), name not in _LEADING_COLUMNS))
    return table[order]


def mlflow_ui_command(uri: str) -> str:
    """Return the command that shows the runs of a store in MLflow.

    Returns "" for a tracking server, whose runs have links.

    Args:
        uri: The tracking store.
    """
    if uri.startswith(("http://", "https://")) or uri.startswith("databricks"):
        return ""
    return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"


def without_password(uri: str) -> str:
    """Remove the user name and password from an address, because a report may be passed on to anyone."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _row(run: Any, label: str, uri: str) -> dict[str, object]:
    tags, info = run.data.tags, run.info
    row: dict[str, object] = {name: tags.get(name, "") for name in _CELL_TAGS}
    row |= {"label": label, "seed": int(tags["seed"]), "run_id": info.run_id, "experiment_id": str(info.experiment_id)}
    row |= {"state": tags.get("state", "running"), "reason": tags.get("reason", "")}
    row |= {"started": _timestamp(info.start_time), "ended": _timestamp(info.end_time), "link": _run_url(run, uri)}
    known = {*row, *_OMITTED_TAGS}
    row |= {name: tags[name] for name in sorted(tags) if name not in known and not name.startswith("mlflow.")}
    return row | {f"{PARAMETER_PREFIX}{name}": str(run.data.params[name]) for name in sorted(run.data.params)}


def _timestamp(milliseconds: int | None) -> pd.Timestamp | NaTType:
    return pd.NaT if milliseconds is None else pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def _run_url(run: Any, uri: str) -> str:
    """Return the address of a run on a tracking server; "" if the store is not a server."""
    if not uri.startswith(("http://", "https://")):
        return ""
    path = f"/#/experiments/{quote(str(run.info.experiment_id))}/runs/{quote(run.info.run_id)}"
    return without_password(uri).rstrip("/") + path
