"""Reads tracked runs from the SQLite file of an MLflow store, without MLflow.

Importing MLflow and building its database layer takes seconds. The tables that are read here have had these columns
since MLflow 1.0. `open_store` reads a file whose tables differ through MLflow.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RUNS = """
    SELECT run_uuid, experiment_id, status, start_time, end_time, artifact_uri FROM runs
    WHERE experiment_id = ? AND lifecycle_stage = 'active' ORDER BY start_time DESC, run_uuid
"""
VALUES = "SELECT {table}.run_uuid, key, {value} FROM {table} JOIN runs USING (run_uuid) WHERE experiment_id = ?"
TABLES = {
    "tags": ("tags", "value"),
    "params": ("params", "value"),
    "metrics": ("latest_metrics", "CASE WHEN is_nan THEN NULL ELSE value END"),
}
"""Where the tags, parameters and latest metrics of runs are, and how their value is read; NULL is NaN."""
HISTORIES = """
    SELECT run_uuid, step, timestamp, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics
    WHERE key = ? AND run_uuid IN ({ids})
"""
VALUE = ("run_uuid", "key", "value")
COLUMNS = {
    "experiments": ("experiment_id", "name", "lifecycle_stage"),
    "runs": ("run_uuid", "experiment_id", "status", "start_time", "end_time", "artifact_uri", "lifecycle_stage"),
    "tags": VALUE,
    "params": VALUE,
    "latest_metrics": (*VALUE, "is_nan"),
    "metrics": (*VALUE, "is_nan", "step", "timestamp"),
}
"""The columns that are read, by table."""
CHUNK = 500
"""Run ids in one query."""


class SqliteStore:
    """The SQLite file of an MLflow store, opened for reading only."""

    def __init__(self, file: Path) -> None:
        """Name the file; it is opened for each question, and a process that writes to it is waited for."""
        self.file = file

    def has_known_tables(self) -> bool:
        """Return whether the file's tables have all columns that are read here.

        Raises:
            ConnectionError: If the file is no SQLite database, or cannot be read.
        """
        with opened(self.file) as database:
            return all(
                set(columns) <= {str(row[1]) for row in database.execute(f"PRAGMA table_info({table})")}
                for table, columns in COLUMNS.items()
            )

    def experiments(self, *, deleted: bool = False) -> dict[str, str]:
        """Return the active experiments, or the deleted ones: name → id.

        Raises:
            ConnectionError: If the file cannot be read.
        """
        with opened(self.file) as database:
            stage = "deleted" if deleted else "active"
            rows = database.execute("SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = ?", [stage])
            return {name: str(number) for name, number in rows}

    def runs(self, experiment_id: str) -> list[Any]:
        """Return the active runs of an experiment, the latest first, with the attributes of MLflow's own runs.

        Returns:
            Objects with `info` (run_id, experiment_id, status, start_time, end_time, artifact_uri) and `data` (tags,
            params, metrics).

        Raises:
            ConnectionError: If the file cannot be read.
        """
        with opened(self.file) as database:
            names = ("run_id", "experiment_id", "status", "start_time", "end_time", "artifact_uri")
            rows = database.execute(RUNS, [experiment_id]).fetchall()
            found = {
                row[0]: SimpleNamespace(
                    info=SimpleNamespace(**dict(zip(names, row, strict=True))),
                    data=SimpleNamespace(**{kind: {} for kind in TABLES}),
                )
                for row in rows
            }
            for kind, (table, value) in TABLES.items():
                query = VALUES.format(table=table, value=value)
                for run_id, key, content in database.execute(query, [experiment_id]):
                    if run_id in found:
                        getattr(found[run_id].data, kind)[key] = float("nan") if content is None else content
        return list(found.values())

    def histories(self, run_ids: Iterable[str], name: str) -> list[tuple[str, int, int, float]]:
        """Return every value of a metric: run id, step, time in milliseconds, value.

        Raises:
            ConnectionError: If the file cannot be read.
        """
        ids, points = list(run_ids), []
        with opened(self.file) as database:
            for i in range(0, len(ids), CHUNK):
                part = ids[i : i + CHUNK]
                query = HISTORIES.format(ids=", ".join("?" * len(part)))
                for run_id, step, time, value in database.execute(query, [name, *part]):
                    points.append((run_id, step, time, float("nan") if value is None else value))
        return points


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading only.

    Raises:
        ConnectionError: If the file is no SQLite database, or cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as database:
            yield database
    except sqlite3.Error as error:
        raise ConnectionError(f"cannot read the tracking store {file}: {error}") from error
