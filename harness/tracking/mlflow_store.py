"""The tracking store: its URI, its database, and what is wrong with it in a line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def store_uri(store: str | None, runs: Path) -> str:
    """Give the tracking URI of a folder of runs, a file's with its whole path: MLflow keeps stores by their URI.

    Args:
        store: a URI, or the path of an SQLite file; None for $MLFLOW_TRACKING_URI, else a database beside the runs.
        runs: the folder of run folders.
    """
    store = store or os.environ.get("MLFLOW_TRACKING_URI") or str(runs / "mlflow.db")
    if ("://" in store and not store.startswith("sqlite:///")) or store == "databricks":
        return store
    return f"sqlite:///{Path(store.removeprefix('sqlite:///')).absolute()}"


class TrackingError(Exception):
    """The tracking store cannot be used now, or refuses what it is sent.

    Attributes:
        away: it cannot be used at all, so that nothing else should be tried for a while.
    """

    def __init__(self, message: str, *, away: bool = True) -> None:
        """Say what is wrong."""
        super().__init__(message)
        self.away = away


def make_database(path: Path) -> None:
    """Make an empty MLflow database, under another name first: one that a kill left half made is of no use."""
    from mlflow import MlflowClient

    if path.exists():  # perhaps on a disk that can only be read
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.unlink(missing_ok=True)
            try:
                MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)  # a full disk needs its space


@contextmanager
def tracking_errors(store: str) -> Iterator[None]:
    """Turn every way in which a store can fail into `TrackingError`, naming the store."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError) as error:
        refused = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
        raise TrackingError(f"cannot use the tracking store {store}: {brief(error)}", away=not refused) from error


def brief(error: Exception) -> str:
    """Give an error in a line, the same each time: of a failed request, its cause without the request's address."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    cause = re.search(r"Caused by \w+\([\"'](?:.*?\): )?(.*?)[\"']\)\)", first)
    return (cause[1] if cause else first)[:300]
