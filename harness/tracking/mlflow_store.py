"""The MLflow tracking store: its URI, its database, its client, and a one-line message for each of its errors."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from filelock import FileLock


def store_uri(store: str | None, runs: Path) -> str:
    """Return the tracking URI of a folder of runs.

    The URI of a local database has its absolute path, because MLflow caches stores by their URI.

    Args:
        store: a URI, or the path of an SQLite file; None for $MLFLOW_TRACKING_URI, else `mlflow.db` in `runs`.
        runs: the folder of run folders.
    """
    store = store or os.environ.get("MLFLOW_TRACKING_URI") or str(runs / "mlflow.db")
    if ("://" in store and not store.startswith("sqlite:///")) or store == "databricks":
        return store
    if not store.startswith("sqlite:///"):
        return sqlite_uri(Path(store))
    _, mark, query = store.partition("?")
    return f"{sqlite_uri(sqlite_path(store))}{mark}{query}"


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file, in which %, ? and # of its path are quoted."""
    return f"sqlite:///{quote(str(path.absolute()))}"


def sqlite_path(uri: str) -> Path:
    """Return the path of the SQLite file that a URI names."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""The packages of modules that SQLAlchemy imports, where they are called otherwise."""


class TrackingError(Exception):
    """The tracking store is unavailable, or rejects a request.

    Attributes:
        unavailable: whether the store cannot be used at all, so that all requests should pause for a while.
    """

    def __init__(self, message: str, *, unavailable: bool = True) -> None:
        """Create the error from a message for the user."""
        super().__init__(message)
        self.unavailable = unavailable


def open_client(store: str) -> Any:
    """Return an `MlflowClient` with short timeouts; create a local database that does not exist yet.

    Args:
        store: MLflow's tracking URI.

    Raises:
        TrackingError: if mlflow is not installed, or the store is unavailable.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise TrackingError(f"mlflow is not installed ({error})") from error
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # We report database errors in one line; MLflow would log a traceback for each.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with tracking_errors(store):
        if store.startswith("sqlite:///"):
            create_database(sqlite_path(store))
        try:
            return MlflowClient(store)
        except ValueError as error:  # a port that is no number
            raise TrackingError(f"cannot use the tracking store {without_secrets(store)}: {error}") from error


def create_database(path: Path) -> None:
    """Create an empty MLflow database, unless it exists.

    The database is built under a temporary name and then renamed. A process that is killed meanwhile leaves no
    half-built database behind.
    """
    from mlflow import MlflowClient

    if path.exists():  # checked before the lock: the folder may be read-only
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.unlink(missing_ok=True)
            try:
                MlflowClient(sqlite_uri(temporary)).search_experiments(max_results=1)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)  # frees its space on a full disk


def follow_move(store: str, experiment: Any, artifacts: Path) -> None:
    """Tell a local database where the artifacts of an experiment lie since the folder of runs was moved.

    MLflow keeps absolute paths, and would write the artifacts of new runs to the old place.

    Args:
        store: MLflow's tracking URI.
        experiment: MLflow's experiment.
        artifacts: where its artifacts belong.
    """
    old, new = str(experiment.artifact_location), artifacts.as_uri()
    if old == new or not store.startswith("sqlite:///") or not old.startswith("file:"):
        return
    database = sqlite_path(store)
    moved_with_it = artifacts.is_dir() or database.parent in artifacts.parents
    if Path(url2pathname(urlsplit(old).path)).exists() or not moved_with_it:
        return
    with closing(sqlite3.connect(database, timeout=30.0)) as connection, connection:
        values = {"old": old, "new": new, "length": len(old), "id": experiment.experiment_id}
        connection.execute("UPDATE experiments SET artifact_location = :new WHERE experiment_id = :id", values)
        connection.execute(
            "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, :length + 1) "
            "WHERE experiment_id = :id AND substr(artifact_uri, 1, :length) = :old",
            values,
        )


@contextmanager
def tracking_errors(store: str) -> Iterator[None]:
    """Convert every error of a store into a `TrackingError` that names the store.

    Args:
        store: MLflow's tracking URI.

    Raises:
        TrackingError: for any error of MLflow, of the network, of the database or of the file system.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        rejected = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
        reason = f"{summarize_error(error)}{missing_driver(error)}".replace(store, without_secrets(store))
        message = f"cannot use the tracking store {without_secrets(store)}: {hide_passwords(reason)}"
        raise TrackingError(message, unavailable=not rejected) from error


SECRET_WORDS = "pass|pwd|token|secret|key|auth|options"
"""Parts of the names of a URI's parameters that may hold a password."""


def hide_passwords(text: str) -> str:
    """Replace the passwords and tokens of all URIs in a text by ***."""
    text = re.sub(r"(?<=://)([^\s:/@]*):\S*(?=@)", r"\1:***", text)
    text = re.sub(r"(?<=://)[^\s:/@]+(?=@)", "***", text)  # a token in the place of a user
    return re.sub(rf"(?i)([?&;][\w-]*(?:{SECRET_WORDS})[\w-]*=)[^\s&;'\"]+", r"\1***", text)


def without_secrets(uri: str) -> str:
    """Return a URI without its password and tokens, which may contain spaces: nothing else follows it."""
    uri = re.sub(r"(?s)(?<=://)([^:/@]*):.*(?=@)", r"\1:***", uri)
    return hide_passwords(re.sub(rf"(?si)([?&;][\w-]*(?:{SECRET_WORDS})[\w-]*=)[^&;]+", r"\1***", uri))


def missing_driver(error: BaseException | None) -> str:
    """Return what to do if a module is missing that the database needs; "" for other errors."""
    if not isinstance(error, ImportError) or not error.name:
        return ""
    package = DRIVERS.get(error.name.partition(".")[0], error.name)
    return f"; install its driver, pip install {package}, or use another store"


def summarize_error(error: Exception) -> str:
    """Return an error's message in one line, without parts that change from one request to the next.

    For a failed HTTP request, return the cause without the request's address.
    """
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    cause = re.search(r"Caused by \w+\([\"'](?:.*?\): )?(.*?)[\"']\)\)", first)
    return (cause[1] if cause else first)[:300]
