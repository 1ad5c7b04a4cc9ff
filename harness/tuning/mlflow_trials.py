"""Copies searches and trials to MLflow: each trial is a child run of its search.

They are in an MLflow experiment of their own, which no leaderboard reads.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from harness.planning.planned_runs import Planned
from harness.store.run_folder import RunFolder
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.mlflow_store import tracking_errors
from harness.tuning.search import Search
from harness.tuning.trial_budget import budget_used
from harness.tuning.trial_journal import search_folder, trial_end

PARENT = "mlflow.parentRunId"
"""MLflow's tag for the parent of a run."""
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "refused": "KILLED", "failed": "FAILED", "diverged": "FAILED"}
"""The MLflow status for each way in which a trial ends."""


def experiment_name(study: str) -> str:
    """Return the name of the MLflow experiment of a study's tuning."""
    return f"{study} · tuning"


@dataclass(frozen=True, kw_only=True)
class TrackedTuning(Planned):
    """A search or one of its trials, to be sent to MLflow as one run.

    Attributes:
        search: the search.
        trials: all trials of the search.
        number: of the trial to send; None to send the search.
        complete: whether the search is over.
    """

    search: Search = field(hash=False)
    trials: Sequence[FrozenTrial] = field(hash=False, repr=False)
    number: int | None = None
    complete: bool = False

    @property
    def key(self) -> str:
        """The tag by which the MLflow run is found. A retried trial has a new number, and so a new MLflow run."""
        return self.search.key if self.number is None else f"{self.search.key}/{self.number}"

    def folder(self, runs: Path) -> RunFolder | None:
        """Return the folder of a trial. Return None if it has no folder, or if a later trial uses that folder."""
        assert self.number is not None
        key, later = self.trials[self.number].user_attrs.get("key"), self.trials[self.number + 1 :]
        if key is None or any(trial.user_attrs.get("key") == key for trial in later):
            return None
        return RunFolder(runs, f"{search_folder(self.search.key)}/{key}")


def track_search(search: Search, trials: Sequence[FrozenTrial], *, complete: bool) -> TrackedTuning:
    """Return a search in the form in which it is sent to MLflow."""
    return make_tracked(search, trials, None, complete=complete)


def track_trial(search: Search, trials: Sequence[FrozenTrial], number: int) -> TrackedTuning:
    """Return a trial in the form in which it is sent to MLflow."""
    return make_tracked(search, trials, number, complete=False)


def make_tracked(search: Search, trials: Sequence[FrozenTrial], number: int | None, *, complete: bool) -> TrackedTuning:
    """Make a `TrackedTuning`."""
    return TrackedTuning(
        run=search.run,
        labels=(search.label,),
        role="trial",
        needs=(),
        epochs=search.run.recipe.epochs,
        search=search,
        trials=tuple(trials),
        number=number,
        complete=complete,
    )


class TuningMirror(Mirror):
    """Sends the searches and trials of a study to MLflow."""

    def __init__(self, store: str, study: str, runs: Path) -> None:
        """Configure the store. It is opened when something is sent first.

        Args:
            store: MLflow's tracking URI.
            study: name of the study.
            runs: the folder of run folders.
        """
        super().__init__(store, experiment_name(study), runs)
        self.mlflow_run_of: dict[str, str] = {}

    def update(self, planned: Planned) -> None:
        """Send what is new of a trial or a search.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        assert isinstance(planned, TrackedTuning)
        with tracking_errors(self.store):
            if planned.number is None:
                self.update_search(planned)
            else:
                self.update_trial(planned, planned.trials[planned.number])

    def update_trial(self, tracked: TrackedTuning, trial: FrozenTrial) -> None:
        """Send what is new of a trial. Leave a trial alone that has ended and was sent."""
        end, folder = trial_end(trial), tracked.folder(self.runs)
        tags = {"state": end["state"]} | ({"reason": end["reason"][:4000]} if end["reason"] else {})
        run_id, old = self.find(tracked.key, lambda: self.describe_trial(tracked, trial))
        if "state" not in old:
            self.set_params(run_id, trial.params)
        if old.get("state") in (None, "running"):
            if folder:
                self.send_epochs_of(run_id, folder)
            result = folder.read_result() if folder and trial.state.is_finished() else {}
            if result:
                self.send_trial(run_id, result)
                tags |= result["provenance"]
            if trial.state.is_finished():
                self.client.set_terminated(run_id, STATUS[end["state"]])
        self.set_changed_tags(tracked.key, run_id, old, tags)

    def send_epochs_of(self, run_id: str, folder: RunFolder) -> None:
        """Send the epochs of a trial.

        An earlier trial with the same values may have used the folder. Its epochs were then sent to another MLflow run.
        """
        if self.mlflow_run_of.setdefault(folder.key, run_id) != run_id:
            self.mlflow_run_of[folder.key], self.sent[folder.key] = run_id, 0
        self.send_epochs(run_id, folder)

    def update_search(self, tracked: TrackedTuning) -> None:
        """Send what is new of a search."""
        search, trials, complete = tracked.search, tracked.trials, tracked.complete
        run_id, old = self.find_search_run(search)
        states = [trial_end(trial)["state"] for trial in trials]
        best, used = search.best(trials), budget_used(trials)
        tags = {"state": "finished" if complete else "running", "cost": f"{used.cost:.6g}"}
        tags |= {f"trials.{state}": str(states.count(state)) for state in STATUS}
        if best:
            tags |= {"best": str(best.number), "best.value": repr(best.values[0])}
        if complete and old.get("state") != "finished":
            self.client.set_terminated(run_id, "FINISHED")
        elif not complete and old.get("state") == "finished":  # a larger budget continues it
            self.client.update_run(run_id, status="RUNNING")
        self.set_changed_tags(search.key, run_id, old, tags)

    def find_search_run(self, search: Search) -> tuple[str, dict[str, str]]:
        """Find or create the MLflow run of a search. Return its identifier and its tags."""
        space = {name: json.loads(distribution_to_json(each)) for name, each in search.space.items()}
        tags = {
            "role": "search",
            **search.run.tags(),
            "metric": search.metric,
            "space": json.dumps(space),
            "defaults": json.dumps(search.defaults),
        }
        return self.find(search.key, lambda: (f"{search.label} · {search.run.setup}", tags | {"label": search.label}))

    def describe_trial(self, tracked: TrackedTuning, trial: FrozenTrial) -> tuple[str, dict[str, str]]:
        """Return the name and the tags of a trial's MLflow run."""
        search = tracked.search
        tags = {
            PARENT: self.find_search_run(search)[0],
            "role": "trial",
            "label": search.label,
            **search.run.tags(),
            "trial": str(tracked.number),
            "values": json.dumps(trial.params),
        }
        if "method" in trial.user_attrs:
            tags["method"] = trial.user_attrs["method"]
        return f"{search.label} · trial {tracked.number}", tags

    def find(self, key: str, describe: Callable[[], tuple[str, dict[str, str]]]) -> tuple[str, dict[str, str]]:
        """Find an MLflow run by its key, or create it. Another driver may have created it meanwhile.

        Args:
            key: the tag by which it is found.
            describe: returns its name and its other tags, if it must be created.

        Returns:
            Its identifier and its tags.
        """
        if key not in self.known:
            name, tags = describe()
            with FileLock(self.runs / "tracking.lock"):
                found = self.client.search_runs([self.experiment_id], filter_string=f"tags.key = '{key}'")
                if found:
                    self.known[key] = (found[0].info.run_id, dict(found[0].data.tags))
                else:
                    made = self.client.create_run(self.experiment_id, tags={"key": key, **tags}, run_name=name)
                    self.known[key] = (made.info.run_id, {"key": key, **tags})
        return self.known[key]

    def send_trial(self, run_id: str, result: Mapping[str, Any]) -> None:
        """Send the metric, the cost and the timing of a trial."""
        values = {"plain_trainings": result["plain_trainings"]}
        values |= {f"cost/{name}": value for name, value in result["cost"].items()}
        values |= {name: value for name, value in result["timing"].items() if name != "finished"}
        if result["value"] is not None:
            values["value"] = result["value"]
        self.log(run_id, [(name, value, result["timing"]["finished"], 0) for name, value in values.items()])

    def set_changed_tags(self, key: str, run_id: str, old: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Set the tags that changed. Call this last: the tag `state` says that everything else was sent."""
        changed = {name: value for name, value in tags.items() if old.get(name) != value}
        if changed:
            self.set_tags(run_id, changed)
        self.known[key] = (run_id, {**old, **tags})
