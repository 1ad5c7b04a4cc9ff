"""Opens the MLflow store that runs were tracked in: a local SQLite file, or anything that MLflow's client reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

from analysis.frame.sqlite_store import SqliteStore

DEFAULT_STORE = "sqlite:///runs/mlflow.db"
_PAGE_SIZE = 1000  # runs that one search request returns


class TrackingStore(Protocol):
    """What is asked of a store; each method raises ConnectionError if the store cannot be read."""

    def experiments(self, *, deleted: bool = False) -> dict[str, str]:
        """Return the active experiments, or the deleted ones that can be restored: name → id."""

    def runs(self, experiment_id: str) -> list[Any]:
        """Return the active runs of an experiment as MLflow's runs, or objects with the same attributes."""

    def histories(self, run_ids: Iterable[str], name: str) -> list[tuple[str, int, int, float]]:
        """Return every value of a metric: run id, step, time in milliseconds, value."""


def open_store(uri: str) -> TrackingStore:
    """Open a store for reading.

    Args:
        uri: What `resolve_store_uri` returns.

    Raises:
        FileNotFoundError: If the store is a file that does not exist.
        ConnectionError: If it cannot be read.
    """
    if not uri.startswith("sqlite:///"):
        return MlflowStore(uri)
    path = Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))
    if not path.is_file():  # MLflow would create an empty store
        raise FileNotFoundError(f"no tracked runs: {path} does not exist")
    file = SqliteStore(path)
    return file if file.has_known_tables() else MlflowStore(uri)


def resolve_store_uri(store: str | None) -> str:
    """Return the URI of a tracking store, given its URI, the path of an SQLite file, or None for the default.

    The path of a file is made absolute, because MLflow caches the stores of a process by their URI, regardless of the
    current folder. In a URI, %, ? and # of a path are quoted.
    """
    uri = store or DEFAULT_STORE
    if ("://" in uri and not uri.startswith("sqlite:///")) or uri == "databricks":
        return uri
    path, mark, query = uri.partition("?") if uri.startswith("sqlite:///") else (quote(uri), "", "")
    absolute = Path(unquote(path.removeprefix("sqlite:///"))).absolute()
    return f"sqlite:///{quote(str(absolute))}{mark}{query}"


class MlflowStore:
    """A store that is read by MLflow's client, such as a tracking server."""

    def __init__(self, uri: str) -> None:
        """Open the store.

        Raises:
            ConnectionError: If it cannot be opened.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # report an unreachable server quickly
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.uri = uri
        from mlflow.tracking import MlflowClient

        with connected(uri):
            self.client = MlflowClient(tracking_uri=uri)

    def experiments(self, *, deleted: bool = False) -> dict[str, str]:
        """Return the active experiments, or the deleted ones: name → id."""
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        with connected(self.uri):
            return {each.name: str(each.experiment_id) for each in self.client.search_experiments(view)}

    def runs(self, experiment_id: str) -> list[Any]:
        """Return the active runs of an experiment."""
        runs: list[Any] = []
        token: str | None = None
        while True:
            with connected(self.uri):
                page = self.client.search_runs([experiment_id], max_results=_PAGE_SIZE, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def histories(self, run_ids: Iterable[str], name: str) -> list[tuple[str, int, int, float]]:
        """Return every value of a metric: run id, step, time in milliseconds, value."""
        with connected(self.uri):
            return [
                (run_id, point.step, point.timestamp, point.value)
                for run_id in run_ids
                for point in self.client.get_metric_history(run_id, name)
            ]


@contextmanager
def connected(uri: str) -> Iterator[None]:
    """Turn the errors of MLflow and its database layer into one.

    Raises:
        ConnectionError: If the store cannot be read.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, ValueError) as error:  # no driver; no number as the port
        raise ConnectionError(f"cannot read the tracking store {uri}: {str(error)[:300]}") from error
