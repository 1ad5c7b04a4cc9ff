"""The mirror of trials in MLflow: each a run under the parent run of its search, in an experiment of tuning alone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from harness.folder import RunFolder, read_json
from harness.journal import end_of
from harness.plan import Planned
from harness.search import Search, account
from harness.track import Mirror, reachable
from harness.trial import PlannedTrial

PARENT = "mlflow.parentRunId"
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "refused": "KILLED", "failed": "FAILED", "diverged": "FAILED"}


def experiment(study: str) -> str:
    """Name the experiment of a study's tuning: no leaderboard reads it."""
    return f"{study} · tuning"


class TuningMirror(Mirror):
    """Sends trials and searches to the experiment of a study's tuning."""

    def __init__(self, store: str, study: str, runs: Path, searches: Mapping[str, Search]) -> None:
        """Name the store; it is opened at the first sending.

        Args:
            store: MLflow's tracking URI.
            study: the study.
            runs: the folder of run folders.
            searches: by their keys.
        """
        super().__init__(store, experiment(study), runs)
        self.searches = searches

    def update(self, planned: Planned) -> None:
        """Bring one trial up to date.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        assert isinstance(planned, PlannedTrial)
        folder = RunFolder(self.runs, planned.key)
        result, failure = read_json(folder.result), read_json(folder.failure)
        state = result["state"] if result else failure["state"] if failure else "running"
        tags = {"state": state}
        if reason := result.get("reason") or (failure.get("reason", "") if not result else ""):
            tags["reason"] = reason[:4000]
        with reachable(self.store):
            run_id, old = self.find(planned.key, lambda: self.describe(planned))
            if "state" not in old:
                self.set_params(run_id, planned.values)
            if old.get("state") in (None, "running", "failed"):
                self.send_epochs(run_id, folder)
                if result:
                    self.send_trial(run_id, result)
                    tags |= result["provenance"]
                if state != "running":
                    self.client.set_terminated(run_id, STATUS[state])
                elif old.get("state") == "failed":
                    self.client.update_run(run_id, status="RUNNING")
            self.settle(planned.key, run_id, old, tags)

    def send_refused(self, search: Search, trial: FrozenTrial) -> None:
        """Send a trial whose values were refused."""
        key = f"{search.key}/{trial.number}"
        self.attempt(key, lambda: self.update_refused(key, search, trial))

    def send_search(self, search: Search, trials: list[FrozenTrial], *, complete: bool) -> None:
        """Send what a search has found so far."""
        self.attempt(search.key, lambda: self.update_search(search, trials, complete=complete))

    def update_refused(self, key: str, search: Search, trial: FrozenTrial) -> None:
        """Bring a refused trial up to date.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        with reachable(self.store):
            tags = self.trial_tags(search, trial.number, trial.params)
            name = f"{search.label} · trial {trial.number}"
            run_id, old = self.find(key, lambda: (name, tags))
            if "state" not in old:
                self.set_params(run_id, trial.params)
                self.client.set_terminated(run_id, STATUS["refused"])
                end = end_of(trial)
                self.settle(key, run_id, old, {"state": end["state"], "reason": end["reason"][:4000]})

    def update_search(self, search: Search, trials: list[FrozenTrial], *, complete: bool) -> None:
        """Bring the parent run of a search up to date.

        Raises:
            TrackingError: if the store cannot be reached.
        """
        with reachable(self.store):
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

    def describe(self, planned: PlannedTrial) -> tuple[str, dict[str, str]]:
        """Name a trial's run, and give its tags."""
        tags = self.trial_tags(self.searches[planned.search], planned.number, planned.values)
        return f"{planned.label} · trial {planned.number}", tags | planned.run.tags()

    def trial_tags(self, search: Search, number: int, values: Mapping[str, Any]) -> dict[str, str]:
        """Give the tags that every trial has."""
        return {
            PARENT: self.parent(search)[0],
            "role": "trial",
            "label": search.label,
            **search.run.tags(),
            "trial": str(number),
            "values": json.dumps(dict(values)),
        }

    def find(self, key: str, describe: Callable[[], tuple[str, dict[str, str]]]) -> tuple[str, dict[str, str]]:
        """Find a run by its key, also one that another driver made meanwhile, or make it.

        Args:
            key: the tag that it is found by.
            describe: gives its name and its other tags, should it have to be made.
        """
        if key not in self.known:
            name, tags = describe()
            with FileLock(self.runs / "tracking.lock"):
                found = self.client.search_runs([self.experiment], filter_string=f"tags.key = '{key}'")
                if found:
                    self.known[key] = (found[0].info.run_id, dict(found[0].data.tags))
                else:
                    made = self.client.create_run(self.experiment, tags={"key": key, **tags}, run_name=name)
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
