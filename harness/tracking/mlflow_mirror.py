"""The mirror of run folders in MLflow. The folders are the truth; whatever is missing here can be sent again.

Epochs carry the time of metrics.jsonl, and a run is found by its key, so that sending twice adds nothing twice.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.planning.plan import Planned
from harness.store.run_folder import RunFolder, read_json
from harness.tracking.mlflow_store import TrackingError, make_database, tracking_errors
from harness.tracking.system_metrics import read_samples

PATIENCE = 60.0
"""Seconds until a tracking server that was away is tried again."""
LIVE = 5.0
"""Seconds between two updates of a running run."""
OTHERS = 15.0
"""Seconds that other drivers have at the end to send the runs they trained, before they are sent from here."""


class Mirror:
    """Sends run folders to one MLflow experiment, named after the study."""

    def __init__(self, store: str, study: str, runs: Path, banner: str = "") -> None:
        """Name the store; it is opened at the first sending.

        Args:
            store: MLflow's tracking URI.
            study: the experiment.
            runs: the folder of run folders.
            banner: what must stand wherever the runs' figures show, a tag of each; "" for nothing.
        """
        self.store, self.study, self.runs, self.banner = store, study, runs, banner
        self.problem = ""
        self.unsent: set[str] = set()
        self.retry_at = 0.0
        self.client: Any = None
        self.known: dict[str, tuple[str, dict[str, str]]] = {}
        self.sent: dict[str, int] = {}
        self.samples: dict[str, int] = {}
        self.updated: dict[str, float] = {}
        self.left: dict[str, Planned] = {}

    def open(self) -> None:
        """Make the store and the experiment ready; a store that is away is noted as `problem`."""
        self.attempt("", self.connect)

    def send(self, planned: Planned, *, live: bool = False) -> None:
        """Send what is new in a run's folder; if the store is away, the run is noted as unsent.

        Args:
            planned: the run.
            live: it is still running; send only now and then.
        """
        key = planned.key
        if live and time.monotonic() - self.updated.get(key, 0.0) < LIVE:
            return
        self.updated[key] = time.monotonic()
        self.attempt(key, lambda: self.update(planned))

    def leave_to_other_driver(self, planned: Planned) -> None:
        """Leave a run to the driver that trained it; `close` makes sure that it was sent."""
        self.left[planned.key] = planned

    def close(self) -> None:
        """Wait a little for other drivers to send the runs that were left to them, then send what is missing."""
        deadline = time.monotonic() + OTHERS
        while self.left:
            self.attempt("", self.learn)
            for key in [key for key, planned in self.left.items() if self.up_to_date(planned)]:
                del self.left[key]
            if not self.left or self.problem or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        for planned in self.left.values():
            self.send(planned)
        self.left.clear()

    def up_to_date(self, planned: Planned) -> bool:
        """Whether the store has how a run ended, as far as was learnt."""
        folder = RunFolder(self.runs, planned.key)
        state = "finished" if folder.finished else read_json(folder.failure).get("state")
        return planned.key in self.known and self.known[planned.key][1].get("state") == state

    def attempt(self, key: str, action: Callable[[], None]) -> None:
        """Do something with the store, unless it was away a moment ago."""
        if time.monotonic() >= self.retry_at:
            try:
                if self.client is None and action != self.connect:
                    self.connect()
                action()
            except TrackingError as error:
                self.problem = str(error)
                if error.away or self.client is None:
                    self.retry_at = time.monotonic() + PATIENCE
            else:
                self.unsent.discard(key)
                if not self.unsent:
                    self.problem = ""
                return
        if key:
            self.unsent.add(key)

    def connect(self) -> None:
        """Open the store, and learn which runs it has.

        Raises:
            TrackingError: if it cannot be reached, or mlflow is not installed.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise TrackingError(f"mlflow is not installed ({error})") from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is told in a line
        with tracking_errors(self.store):
            if self.store.startswith("sqlite:///"):
                make_database(Path(self.store.removeprefix("sqlite:///").partition("?")[0]))
            client = MlflowClient(self.store)
            self.experiment_id = self.find_or_create_experiment(client)
            self.known |= self.read_runs(client)
        self.client = client

    def find_or_create_experiment(self, client: Any) -> str:
        """Find the study's experiment, or make it."""
        from mlflow.exceptions import MlflowException

        if experiment := client.get_experiment_by_name(self.study):
            return str(experiment.experiment_id)
        local = not self.store.startswith(("http:", "https:", "databricks"))
        place = (self.runs.absolute() / "artifacts" / self.study).as_uri() if local else None
        try:
            return str(client.create_experiment(self.study, artifact_location=place))
        except MlflowException:
            if experiment := client.get_experiment_by_name(self.study):  # another driver was quicker
                return str(experiment.experiment_id)
            raise

    def learn(self) -> None:
        """Learn anew which runs the store has, and how far it has them.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        with tracking_errors(self.store):
            self.known |= self.read_runs(self.client)

    def read_runs(self, client: Any) -> dict[str, tuple[str, dict[str, str]]]:
        """Read the names and tags of the store's runs, by key."""
        found: dict[str, tuple[str, dict[str, str]]] = {}
        token = None
        while True:
            page = client.search_runs([self.experiment_id], max_results=1000, page_token=token)
            found |= {
                run.data.tags["key"]: (run.info.run_id, dict(run.data.tags)) for run in page if "key" in run.data.tags
            }
            token = page.token
            if not token:
                return found

    def update(self, planned: Planned) -> None:
        """Bring one run up to date.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        folder = RunFolder(self.runs, planned.key)
        result = read_json(folder.result)
        failure = read_json(folder.failure)
        state = "finished" if result else failure["state"] if failure else "running"
        tags = {"label": planned.label, "role": planned.role, "state": state}
        if failure and not result:
            tags["reason"] = failure["reason"][:4000]
        with tracking_errors(self.store):
            run_id, old = self.known.get(planned.key) or self.find_or_create(planned)
            if "state" not in old:  # it is new, or a kill came between its making and its first update
                self.set_params(run_id, flatten(planned.run.model_dump(mode="json")))
            if old.get("state") != "finished":
                self.send_epochs(run_id, folder)
                self.send_samples(run_id, folder)
                if result:
                    tags |= result["provenance"]
                    tags |= {name: result[name] for name in ("evaluated_on", "chosen_on") if name in result}
                    tags |= {"arrays": " ".join(result["arrays"])} if "arrays" in result else {}
                    self.send_result(run_id, folder, result)
            if old.get("state") != state and state != "running":
                end = int(1000 * result["timing"]["finished"]) if result else None
                self.client.set_terminated(run_id, "FINISHED" if result else "FAILED", end)
            elif state == "running" and old.get("state") not in (None, "running"):
                self.client.update_run(run_id, status="RUNNING")
            changed = {name: value for name, value in tags.items() if old.get(name) != value}
            if changed:  # last, for the state says that all of the above was done
                self.set_tags(run_id, changed)
            self.known[planned.key] = (run_id, {**old, **tags})

    def find_or_create(self, planned: Planned) -> tuple[str, dict[str, str]]:
        """Find the MLflow run of a run, which another driver may have made meanwhile, or make it."""
        key = planned.key
        with FileLock(self.runs / "tracking.lock"):
            found = self.client.search_runs([self.experiment_id], filter_string=f"tags.key = '{key}'")
            if not found:
                return self.create(planned)
        self.known[key] = (found[0].info.run_id, dict(found[0].data.tags))
        return self.known[key]

    def create(self, planned: Planned) -> tuple[str, dict[str, str]]:
        """Make the MLflow run of a run."""
        run = planned.run
        tags = {
            "key": run.key,
            "label": planned.label,
            "role": planned.role,
            **run.tags(),
            **({"banner": self.banner} if self.banner else {}),
        }
        made = self.client.create_run(self.experiment_id, tags=tags, run_name=f"{planned.label} · {run.place}")
        self.known[run.key] = (made.info.run_id, tags)
        return self.known[run.key]

    def send_epochs(self, run_id: str, folder: RunFolder) -> None:
        """Send the epochs not sent yet by this process."""
        lines = folder.read_epochs()
        new = lines[self.sent.get(folder.key, 0) :]
        self.log(
            run_id,
            [
                (name, value, line["time"], line["epoch"])
                for line in new
                for name, value in line.items()
                if name not in ("time", "epoch")
            ],
        )
        self.sent[folder.key] = len(lines)

    def send_samples(self, run_id: str, folder: RunFolder) -> None:
        """Send the system metrics not sent yet by this process, by the names that MLflow itself gives them."""
        samples, sent = read_samples(folder.system), self.samples.get(folder.key, 0)
        self.log(
            run_id,
            [
                (f"system/{name}", value, sample["time"], step)
                for step, sample in enumerate(samples[sent:], start=sent)
                for name, value in sample.items()
                if name != "time"
            ],
        )
        self.samples[folder.key] = len(samples)

    def send_result(self, run_id: str, folder: RunFolder, result: Mapping[str, Any]) -> None:
        """Send the metrics and files of a finished run."""
        when = result["timing"]["finished"]
        values = dict(result["metrics"])
        for group in ("cost", "spent"):
            values |= {f"{group}/{name}": value for name, value in result[group].items()}
        values |= {name: v for name, v in result["timing"].items() if name != "finished" and v is not None}
        points = [(name, value, when, 0) for name, value in values.items()]
        for name, curve in result["members"].items():
            steps = curve.items() if isinstance(curve, dict) else enumerate(curve, start=1)
            points += [(f"members/{name}", value, when, int(k)) for k, value in steps]
        self.log(run_id, points)
        kept = [folder.arrays] if "arrays" in result else []
        for path in filter(Path.exists, (folder.result, folder.predictions, *kept)):
            self.client.log_artifact(run_id, str(path))

    def log(self, run_id: str, points: list[tuple[str, float, float, int]]) -> None:
        """Send (name, value, time, step) points, at most 1,000 at once."""
        from mlflow.entities import Metric

        metrics = [Metric(name, float(value), int(1000 * when), step) for name, value, when, step in points]
        for i in range(0, len(metrics), 1000):
            self.client.log_batch(run_id, metrics=metrics[i : i + 1000])

    def set_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Set parameters of a run."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
