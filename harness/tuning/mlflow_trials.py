"""The mirror of tuning in MLflow: each trial a run under the parent run of its search, apart from all leaderboards."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from harness.planning.plan import Planned
from harness.store.run_folder import RunFolder, read_json
from harness.tracking.mlflow_mirror import Mirror
from harness.tracking.mlflow_store import tracking_errors
from harness.tuning.search import Search
from harness.tuning.trial_budget import account
from harness.tuning.trial_journal import end_of, folder_of

PARENT = "mlflow.parentRunId"
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "refused": "KILLED", "failed": "FAILED", "diverged": "FAILED"}


def experiment(study: str) -> str:
    """Name the experiment of a study's tuning: no leaderboard reads it."""
    return f"{study} · tuning"


@dataclass(frozen=True, kw_only=True)
class Tracked(Planned):
    """One MLflow run of tuning: a search, or one of its trials, as the journal has it.

    Attributes:
        search: the search.
        trials: all that it has.
        number: of the trial; None for the search itself.
        complete: whether the search is over.
    """

    search: Search = field(hash=False)
    trials: Sequence[FrozenTrial] = field(hash=False, repr=False)
    number: int | None = None
    complete: bool = False

    @property
    def key(self) -> str:
        """The tag that the MLflow run is found by: a trial that is tried again has a number, and a run, of its own."""
        return self.search.key if self.number is None else f"{self.search.key}/{self.number}"

    def folder(self, runs: Path) -> RunFolder | None:
        """Give the folder of a trial; None if it has none, or one that a later trial has taken over."""
        assert self.number is not None
        key, later = self.trials[self.number].user_attrs.get("key"), self.trials[self.number + 1 :]
        if key is None or any(trial.user_attrs.get("key") == key for trial in later):
            return None
        return RunFolder(runs, f"{folder_of(self.search.key)}/{key}")


def track_search(search: Search, trials: Sequence[FrozenTrial], *, complete: bool) -> Tracked:
    """Name the MLflow run of a search."""
    return track(search, trials, None, complete=complete)


def track_trial(search: Search, trials: Sequence[FrozenTrial], number: int) -> Tracked:
    """Name the MLflow run of a trial."""
    return track(search, trials, number, complete=False)


def track(search: Search, trials: Sequence[FrozenTrial], number: int | None, *, complete: bool) -> Tracked:
    """Name an MLflow run of tuning."""
    return Tracked(
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
    """Sends trials and searches to the experiment of a study's tuning."""

    def __init__(self, store: str, study: str, runs: Path) -> None:
        """Name the store; it is opened at the first sending.

        Args:
            store: MLflow's tracking URI.
            study: the study.
            runs: the folder of run folders.
        """
        super().__init__(store, experiment(study), runs)
        self.sent_to: dict[str, str] = {}

    def update(self, planned: Planned) -> None:
        """Bring one trial, or one search, up to date.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        assert isinstance(planned, Tracked)
        with tracking_errors(self.store):
            if planned.number is None:
                self.update_search(planned)
            else:
                self.update_trial(planned, planned.trials[planned.number])

    def update_trial(self, tracked: Tracked, trial: FrozenTrial) -> None:
        """Bring one trial up to date; one that ended and was sent is left alone."""
        end, folder = end_of(trial), tracked.folder(self.runs)
        tags = {"state": end["state"]} | ({"reason": end["reason"][:4000]} if end["reason"] else {})
        run_id, old = self.find(tracked.key, lambda: self.describe(tracked, trial))
        if "state" not in old:
            self.set_params(run_id, trial.params)
        if old.get("state") in (None, "running"):
            if folder:
                self.send_epochs_of(run_id, folder)
            result = read_json(folder.result) if folder and trial.state.is_finished() else {}
            if result:
                self.send_trial(run_id, result)
                tags |= result["provenance"]
            if trial.state.is_finished():
                self.client.set_terminated(run_id, STATUS[end["state"]])
        self.settle(tracked.key, run_id, old, tags)

    def send_epochs_of(self, run_id: str, folder: RunFolder) -> None:
        """Send a trial's epochs; another trial with the same values had the folder, perhaps, and sent them as its."""
        if self.sent_to.setdefault(folder.key, run_id) != run_id:
            self.sent_to[folder.key], self.sent[folder.key] = run_id, 0
        self.send_epochs(run_id, folder)

    def update_search(self, tracked: Tracked) -> None:
        """Bring the parent run of a search up to date."""
        search, trials, complete = tracked.search, tracked.trials, tracked.complete
        run_id, old = self.parent(search)
        states = [end_of(trial)["state"] for trial in trials]
        best, used = search.best(trials), account(trials)
        tags = {"state": "finished" if complete else "running", "cost": f"{used.cost:.6g}"}
        tags |= {f"trials.{state}": str(states.count(state)) for state in STATUS}
        if best:
            tags |= {"best": str(best.number), "best.value": repr(best.values[0])}
        if complete and old.get("state") != "finished":
            self.client.set_terminated(run_id, "FINISHED")
        elif not complete and old.get("state") == "finished":  # a larger budget lets it go on
            self.client.update_run(run_id, status="RUNNING")
        self.settle(search.key, run_id, old, tags)

    def parent(self, search: Search) -> tuple[str, dict[str, str]]:
        """Find or make the run of a search."""
        space = {name: json.loads(distribution_to_json(each)) for name, each in search.space.items()}
        tags = {
            "role": "search",
            **search.run.tags(),
            "metric": search.metric,
            "space": json.dumps(space),
            "defaults": json.dumps(search.defaults),
        }
        return self.find(search.key, lambda: (f"{search.label} · {search.run.place}", tags | {"label": search.label}))

    def describe(self, tracked: Tracked, trial: FrozenTrial) -> tuple[str, dict[str, str]]:
        """Name a trial's run, and give its tags."""
        search = tracked.search
        tags = {
            PARENT: self.parent(search)[0],
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
        """Find a run by its key, also one that another driver made meanwhile, or make it.

        Args:
            key: the tag that it is found by.
            describe: gives its name and its other tags, should it have to be made.
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
        """Send what a trial found and cost."""
        values = {"plain_trainings": result["plain_trainings"]}
        values |= {f"cost/{name}": value for name, value in result["cost"].items()}
        values |= {name: value for name, value in result["timing"].items() if name != "finished"}
        if result["value"] is not None:
            values["value"] = result["value"]
        self.log(run_id, [(name, value, result["timing"]["finished"], 0) for name, value in values.items()])

    def settle(self, key: str, run_id: str, old: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Set the tags that changed, last of all: the state says that all else was done."""
        changed = {name: value for name, value in tags.items() if old.get(name) != value}
        if changed:
            self.set_tags(run_id, changed)
        self.known[key] = (run_id, {**old, **tags})
