"""Loads the finished runs of a study from an MLflow store: one row per run."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
import pandas as pd

from analysis.frame.tracking_store import open_store, resolve_store_uri

SERIES_PREFIXES = (
    "train/",
    "test/",
    "distance/",
    "members/",
    "system/",
)  # metrics with one value per step; they are not columns of the frame
NPZ_ERRORS = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
"""Exceptions that NumPy raises for .npz files that are empty, cut or altered."""
_TAG_COLUMNS = (
    "label",
    "method",
    "architecture",
    "dataset",
    "evaluated_on",
    "chosen_on",
    "arrays",
    "key",
    "device",
    "tf32",
    "official_corruptions",
)


def load_runs(study: str, *, store: str | None = None, keys: Collection[str] | None = None) -> pd.DataFrame:
    """Load the finished cells of a study, one row per cell, sorted by dataset, architecture, label and seed.

    The columns:

    - `label` (the study's name of the method), `method` (its canonical expression), `architecture`,
      `dataset`, `seed` (int), `evaluated_on` ("test" or "validation"), `chosen_on` ("test" for a run whose weights were
      chosen on test data, else ""; `ranked` leaves these runs out)
    - `arrays` (the arrays that `load_arrays` can load for the run, as in "path plane"; "" for none)
    - `device` (what computed the run, as in "cuda (NVIDIA H200)"), `tf32` (which of its float32 arithmetic was rounded
      to TF32: "none", "convolutions" …), `official_corruptions` (the digest of the official corrupted files that it
      was evaluated on); "" for runs that do not say so
    - `key` (SHA-256 of the cell's specification), `run_id`, `artifact_uri`, `study`, `store`
    - every final metric as a float under its tracked name, NaN where it is not defined:
      `accuracy`, `corruption_error` (`generated/…` for corruptions that were generated locally) and `single/accuracy`
      in per cent; `nll`, `single/nll` and `diversity/kl`
      in nats; `ece`, `adaptive_ece`, `ood_auroc` and `diversity/disagreement` between 0 and 1;
      `cost/*_examples` in examples, `cost/train_seconds` and `cost/seconds_per_1000_predictions` in seconds,
      `cost/peak_memory_bytes` in bytes. `cost/…` is the cost of the run trained alone. `spent/…` is the cost that was
      actually spent.

    `frame.attrs["unfinished"]` lists the cells without a result (label, architecture, dataset, seed, state,
    reason, key, run_id). A requested key without a run is listed with only its key and the state "missing".
    Leaderboards name these cells below their tables. Runs that exist only as members of a deep ensemble are left out.
    `frame.attrs["banner"]` is set if the runs are a rehearsal. It says so, and every table and figure made from the
    frame shows it.

    Args:
        study: The study's name, which is also the name of the MLflow experiment.
        store: The MLflow tracking store: a URI, or the path of an SQLite file.
            Default: `sqlite:///runs/mlflow.db`, below the current folder.
        keys: Load only the cells with these keys, for example those of the current study file. Default: all.

    Raises:
        FileNotFoundError: If the store's file does not exist.
        LookupError: If the store has no such study, or the study has no finished run.
        ValueError: If two finished runs have the same key.
        ConnectionError: If a tracking server does not answer.
    """
    uri = resolve_store_uri(store)
    finished, unfinished = find_finished_runs(study, uri, keys)
    frame = pd.DataFrame([_row(run, study, uri) for run in finished])
    frame = frame.sort_values(["dataset", "architecture", "label", "seed"], ignore_index=True)
    frame.attrs["unfinished"] = unfinished
    if banner := rehearsal_banner(finished):
        frame.attrs["banner"] = banner
    return frame


def rehearsal_banner(finished: Iterable[Any]) -> str:
    """Return the banner of rehearsal runs, taken from MLflow's tags; "" for real runs."""
    return " ".join(sorted({run.data.tags["banner"] for run in finished if run.data.tags.get("banner")}))


def find_finished_runs(
    study: str, uri: str, keys: Collection[str] | None = None
) -> tuple[list[Any], list[dict[str, str]]]:
    """Return the MLflow runs of a study's finished cells, and descriptions of its unfinished cells.

    Args:
        study: The study's name.
        uri: The tracking store.
        keys: Take only the cells with these keys.

    Raises:
        FileNotFoundError, LookupError, ValueError, ConnectionError: As `load_runs` does.
    """
    tracked = find_tracked_runs(study, uri)
    if keys is None:
        cells = [run for run in tracked if run.data.tags.get("role") == "cell"]
    else:  # in another study of this name, a cell may only be a run that others need
        wanted = set(keys)
        cells = [run for run in tracked if run.data.tags.get("key") in wanted]
    finished = [run for run in cells if run.data.tags.get("state") == "finished"]
    _refuse_duplicates(study, finished)
    done = {run.data.tags["key"] for run in finished}
    unfinished = [_unfinished_cell(run) for run in cells if run.data.tags.get("key") not in done]
    known = {run.data.tags.get("key") for run in cells}
    unfinished += [{"state": "missing", "key": key} for key in sorted(set(keys or ()) - known)]
    if not finished:
        raise LookupError(f"study {study!r} has no finished runs ({_count_states(unfinished)}) in {uri}")
    return finished, unfinished


def find_tracked_runs(experiment: str, uri: str) -> list[Any]:
    """Return all MLflow runs of an experiment.

    Raises:
        FileNotFoundError, LookupError, ConnectionError: As `load_runs` does.
    """
    store = open_store(uri)
    experiments = store.experiments()
    if experiment not in experiments:
        if number := store.experiments(deleted=True).get(experiment):
            restore = f"`mlflow experiments restore --experiment-id {number}`"
            raise LookupError(
                f"study {experiment!r} was deleted in {uri}: {restore} brings it back, with MLFLOW_TRACKING_URI set to "
                "this store"
            )
        names = sorted(name for name in experiments if name != "Default")
        raise LookupError(f"no study {experiment!r} in {uri}; there is: {', '.join(names) or 'none'}")
    return store.runs(experiments[experiment])


def ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the runs whose weights were chosen on test data.

    Their test scores do not estimate the performance on new data.

    Args:
        frame: Rows of `load_runs`.

    Returns:
        The other rows. If any runs are left out, `attrs["left_out"]` names them; so does one of `attrs["notes"]`.

    Raises:
        LookupError: If no row is left.
    """
    if "chosen_on" not in frame or not (chosen := frame["chosen_on"] == "test").any():
        return frame
    count, labels = int(chosen.sum()), ", ".join(sorted(frame.loc[chosen, "label"].unique()))
    note = f"Chosen on test data: not ranked ({count} run{'s' if count > 1 else ''}: {labels})."
    if chosen.all():
        raise LookupError(f"there is nothing to rank; {note}")
    rest = frame[~chosen].reset_index(drop=True)
    rest.attrs = {**frame.attrs, "left_out": note, "notes": [*frame.attrs.get("notes", []), note]}
    return rest


def load_series(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Load the values of a metric with one value per step, for every run of a frame.

    Args:
        frame: Rows of `load_runs`.
        name: For example `train/loss`, `test/accuracy`, `distance/l2` (a step is an epoch, from 1),
            `members/accuracy` (a step is the number of members, from 1).

    Returns:
        Columns run_id, step, value; sorted by run (in the frame's order) and step. A run without the metric
        has no rows. If a step was tracked twice, the later value is kept.
    """
    rows = [
        point
        for uri, runs in frame.groupby("store", sort=False)
        for point in open_store(str(uri)).histories(runs["run_id"], name)
    ]
    series = pd.DataFrame(rows, columns=["run_id", "step", "timestamp", "value"])
    order = {run_id: position for position, run_id in enumerate(frame["run_id"])}
    series["position"] = series["run_id"].map(order)
    series = series.sort_values(["position", "step", "timestamp"], kind="stable")
    series = series.drop_duplicates(["run_id", "step"], keep="last", ignore_index=True)
    return series[["run_id", "step", "value"]].astype({"step": int, "value": float})


def read_npz(row: dict[Any, Any], name: str) -> dict[str, np.ndarray]:
    """Read an .npz file that a run saved as an MLflow artifact.

    Args:
        row: A row of `load_runs`, as a dict.
        name: The file's name without ".npz".

    Raises:
        FileNotFoundError: If the file no longer exists, or is damaged. The message names the run and the remedy.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = f"{artifact_folder(row)}/{name}.npz"
    cell = f"{row['label']} · {row['architecture']} · {row['dataset']} · seed {row['seed']}"
    try:  # a local artifact is read in place, a remote one is downloaded
        path = download_artifacts(artifact_uri=uri, tracking_uri=row["store"])
    except (OSError, MlflowException) as error:
        raise FileNotFoundError(
            f"no {name} of {cell} at {uri}; `econ sync STUDY --artifacts` sends it again"
        ) from error
    try:
        with np.load(path) as stored:
            return dict(stored)
    except NPZ_ERRORS as error:
        reason = f"{name} of {cell} at {uri} are damaged ({error})"
        raise FileNotFoundError(f"{reason}; `econ sync STUDY --artifacts` sends the run's own again") from error


def artifact_folder(row: dict[Any, Any]) -> str:
    """Return the URI of a run's artifacts: where MLflow put them, or where they lie since the store was moved.

    MLflow knows the artifacts of a local store by absolute paths. If nothing is there, they are looked for at the same
    place relative to the store.

    Args:
        row: A row of `load_runs`, as a dict.
    """
    uri, store = str(row["artifact_uri"]).rstrip("/"), str(row["store"])
    if not store.startswith("sqlite:///") or ("://" in uri and not uri.startswith("file:")):
        return uri
    known = Path(url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri)
    if known.is_dir():
        return uri
    beside = Path(unquote(store.removeprefix("sqlite:///").partition("?")[0])).parent
    moved = (beside.joinpath(*known.parts[i:]) for i in range(1, len(known.parts) - 1))  # the longest way first
    return next((place.as_uri() for place in moved if place.is_dir()), uri)


def _refuse_duplicates(study: str, finished: Iterable[Any]) -> None:
    counts = Counter(run.data.tags["key"] for run in finished)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"study {study!r} has more than one finished run of key {', '.join(sorted(twice))}")


def _row(run: Any, study: str, uri: str) -> dict[str, object]:
    tags = run.data.tags
    row: dict[str, object] = {name: tags.get(name, "") for name in _TAG_COLUMNS}
    row |= {"seed": int(tags["seed"]), "run_id": run.info.run_id, "artifact_uri": run.info.artifact_uri}
    row |= {"study": study, "store": uri}
    metrics = {name: float(value) for name, value in run.data.metrics.items()}
    return row | {name: metrics[name] for name in sorted(metrics) if not name.startswith(SERIES_PREFIXES)}


def _unfinished_cell(run: Any) -> dict[str, str]:
    tags = run.data.tags
    names = ("label", "architecture", "dataset", "seed", "reason", "key")
    found = {name: tags.get(name, "") for name in names}
    return found | {"state": tags.get("state", "running"), "run_id": run.info.run_id}


def _count_states(unfinished: list[dict[str, str]]) -> str:
    states = Counter(cell["state"] for cell in unfinished)
    return ", ".join(f"{states[state]} {state}" for state in sorted({"running", "failed", *states}))
