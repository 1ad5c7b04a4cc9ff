"""Writes run folders to one MLflow experiment: a run's parameters, tags, epochs, metrics and files.

Writing a run twice adds nothing twice. A run is found by its `key` tag, each epoch keeps the timestamp that stands in
metrics.jsonl, and the `state` tag is set last: it says that everything else was written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel

from harness.planning.planned_runs import Planned
from harness.store.run_folder import RunFolder
from harness.tracking.mlflow_store import TrackingError, follow_move, open_client, tracking_errors
from harness.tracking.system_metrics import read_samples

BATCH_SIZE = 1000
"""Metric values in one request; MLflow accepts no more."""
REASON_LENGTH = 4000
"""Characters of a failure's reason that are kept: the tag's limit."""

Point = tuple[str, float, float, int]
"""A metric value: its name, value, time in seconds since 1970, and step."""


class MlflowExperiment:
    """One MLflow experiment, and the run folders that are written to it.

    Attributes:
        client: MLflow's client; None until `connect`.
        resend_artifacts: whether the files of runs are written that the store has already, too.
        known: run ids and tags of the experiment's MLflow runs, by the run's key.
        sent: how many epochs of each run this process has written, by the run's key.
        sent_samples: how many samples of system metrics, likewise.
    """

    def __init__(self, store: str, study: str, runs: Path, banner: str = "") -> None:
        """Name the experiment; `connect` opens it.

        Args:
            store: MLflow's tracking URI.
            study: the experiment's name.
            runs: the folder of run folders.
            banner: a warning that must be shown wherever the runs' numbers are, a tag of each run; "" for none.
        """
        self.store, self.study, self.runs, self.banner = store, study, runs, banner
        self.client: Any = None
        self.resend_artifacts = False
        self.known: dict[str, tuple[str, dict[str, str]]] = {}
        self.sent: dict[str, int] = {}
        self.sent_samples: dict[str, int] = {}

    # --- the experiment ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Open the store and the experiment, and read which runs it has.

        Raises:
            TrackingError: if the store is unavailable, or mlflow is not installed.
        """
        client = open_client(self.store)
        with tracking_errors(self.store):
            self.experiment_id = self.find_or_create_experiment(client)
            self.known |= self.read_runs(client)
        self.client = client

    def find_or_create_experiment(self, client: Any) -> str:
        """Return the id of the study's experiment; create it if it does not exist."""
        from mlflow.exceptions import MlflowException

        if experiment := client.get_experiment_by_name(self.study):
            if experiment.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"cannot use the tracking store {self.store}: its experiment {self.study!r} was deleted; "
                    f"`mlflow experiments restore --experiment-id {experiment.experiment_id}` brings it back, with "
                    "MLFLOW_TRACKING_URI set to this store"
                )
            follow_move(self.store, experiment, self.artifacts)
            return str(experiment.experiment_id)
        local = not self.store.startswith(("http:", "https:", "databricks"))
        artifacts = self.artifacts.as_uri() if local else None
        try:
            return str(client.create_experiment(self.study, artifact_location=artifacts))
        except MlflowException:
            if experiment := client.get_experiment_by_name(self.study):  # another driver created it meanwhile
                return str(experiment.experiment_id)
            raise

    @property
    def artifacts(self) -> Path:
        """The folder of the experiment's artifacts in a local store."""
        return self.runs.absolute() / "artifacts" / self.study

    def refresh_known_runs(self) -> None:
        """Read again which runs the experiment has, with their tags.

        Raises:
            TrackingError: if the store is unavailable.
        """
        with tracking_errors(self.store):
            self.known |= self.read_runs(self.client)

    def read_runs(self, client: Any) -> dict[str, tuple[str, dict[str, str]]]:
        """Return the ids and tags of the experiment's runs, by key."""
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

    # --- one run ----------------------------------------------------------------------------------------------

    def update(self, planned: Planned) -> None:
        """Write to MLflow what is new in a run's folder.

        Raises:
            TrackingError: if the store is unavailable, or rejects a value.
        """
        folder = RunFolder(self.runs, planned.key)
        result, failure = folder.read_result(), folder.read_failure()
        if folder.result.exists() and not result:
            raise TrackingError(f"{folder.result} is damaged: the run was not sent", unavailable=False)
        try:
            self.send_run(planned, folder, result, failure)
        except TrackingError as error:
            if error.unavailable:
                raise
            raise TrackingError(f"{folder.path}: {error}", unavailable=False) from error

    def send_run(self, planned: Planned, folder: RunFolder, result: dict[str, Any], failure: dict[str, Any]) -> None:
        """Write to MLflow what is new in a run's folder, whose result and failure were read.

        Raises:
            TrackingError: if the store is unavailable, or rejects a value.
        """
        state = "finished" if result else failure["state"] if failure else "running"
        tags = {"label": planned.label, "role": planned.role, "state": state}
        if failure and not result:
            tags["reason"] = failure["reason"][:REASON_LENGTH]
        with tracking_errors(self.store):
            run_id, old = self.known.get(planned.key) or self.find_or_create_run(planned)
            if "state" not in old:  # a new run, or a process was killed between creating it and its first update
                assert isinstance(planned.run, BaseModel)  # `with_specs` has made it
                self.set_params(run_id, flatten(planned.run.model_dump(mode="json")))
            if old.get("state") != "finished":
                self.send_epochs(run_id, folder)
                self.send_samples(run_id, folder)
                if result:
                    tags |= result["provenance"]
                    tags |= {name: result[name] for name in ("evaluated_on", "chosen_on") if name in result}
                    tags |= {"arrays": " ".join(result["arrays"])} if "arrays" in result else {}
                    self.send_result(run_id, folder, result)
            elif result and self.resend_artifacts:
                self.send_artifacts(run_id, folder, result)
            if old.get("state") != state and state != "running":
                end = int(1000 * result["timing"]["finished"]) if result else None
                self.client.set_terminated(run_id, "FINISHED" if result else "FAILED", end)
            elif state == "running" and old.get("state") not in (None, "running"):
                self.client.update_run(run_id, status="RUNNING")
            changed = {name: value for name, value in tags.items() if old.get(name) != value}
            if changed:  # last: the state tag says that everything above was written
                self.set_tags(run_id, changed)
            self.known[planned.key] = (run_id, {**old, **tags})

    def find_or_create_run(self, planned: Planned) -> tuple[str, dict[str, str]]:
        """Return the id and tags of a run's MLflow run; create it unless another driver did meanwhile."""
        key = planned.key
        with FileLock(self.runs / "tracking.lock"):
            found = self.client.search_runs([self.experiment_id], filter_string=f"tags.key = '{key}'")
            if not found:
                return self.create_run(planned)
        self.known[key] = (found[0].info.run_id, dict(found[0].data.tags))
        return self.known[key]

    def create_run(self, planned: Planned) -> tuple[str, dict[str, str]]:
        """Create the MLflow run of a run; return its id and tags."""
        run = planned.run
        tags = {
            "key": run.key,
            "label": planned.label,
            "role": planned.role,
            **run.tags(),
            **({"banner": self.banner} if self.banner else {}),
        }
        made = self.client.create_run(self.experiment_id, tags=tags, run_name=f"{planned.label} · {run.setup}")
        self.known[run.key] = (made.info.run_id, tags)
        return self.known[run.key]

    # --- its parts --------------------------------------------------------------------------------------------

    def send_epochs(self, run_id: str, folder: RunFolder) -> None:
        """Write the epochs that this process has not written yet."""
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
        """Write the system metrics that this process has not written yet, under MLflow's own names for them."""
        samples, sent = read_samples(folder.system), self.sent_samples.get(folder.key, 0)
        self.log(
            run_id,
            [
                (f"system/{name}", value, sample["time"], step)
                for step, sample in enumerate(samples[sent:], start=sent)
                for name, value in sample.items()
                if name != "time"
            ],
        )
        self.sent_samples[folder.key] = len(samples)

    def send_result(self, run_id: str, folder: RunFolder, result: Mapping[str, Any]) -> None:
        """Write the metrics and the files of a finished run."""
        self.log(run_id, result_points(result))
        self.send_artifacts(run_id, folder, result)

    def send_artifacts(self, run_id: str, folder: RunFolder, result: Mapping[str, Any]) -> None:
        """Write the files of a finished run."""
        arrays = [folder.arrays] if "arrays" in result else []
        for path in filter(Path.exists, (folder.result, folder.predictions, folder.source, *arrays)):
            self.client.log_artifact(run_id, str(path))

    def log(self, run_id: str, points: list[Point]) -> None:
        """Write metric values, in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        metrics = [Metric(name, float(value), int(1000 * when), step) for name, value, when, step in points]
        for i in range(0, len(metrics), BATCH_SIZE):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH_SIZE])

    def set_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Set parameters of a run."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        texts = {name: value.encode("utf-8", "replace").decode() for name, value in tags.items()}
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in texts.items()])


def result_points(result: Mapping[str, Any]) -> list[Point]:
    """Return the metric values of a run's result: scores, costs and timing at step 0, curves over members at step k."""
    when = result["timing"]["finished"]
    values = dict(result["metrics"])
    for group in ("cost", "spent"):
        values |= {f"{group}/{name}": value for name, value in result[group].items()}
    values |= {name: value for name, value in result["timing"].items() if name != "finished" and value is not None}
    points = [(name, value, when, 0) for name, value in values.items()]
    for name, curve in result["members"].items():
        steps = curve.items() if isinstance(curve, dict) else enumerate(curve, start=1)
        points += [(f"members/{name}", value, when, int(k)) for k, value in steps]
    return points


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
