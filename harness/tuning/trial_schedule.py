"""The schedule of a study's tuning: which trial starts next."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from harness.planning.schedule import Schedule
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder
from harness.tuning.search import Search
from harness.tuning.search_space import with_values
from harness.tuning.trial import PlannedTrial
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_journal import Journal, JournalError, search_folder, trial_owner

START_TIMEOUT = 60.0
"""Seconds after which a trial that another driver began and did not claim is abandoned, by this machine's clock."""


class TrialSchedule(Schedule):
    """Hands out trials: abandoned ones first, then new ones while the budget of their search lasts.

    A single worker finishes one search before the next. Several workers are spread over the searches, because a search
    learns more if fewer of its trials run at once.
    """

    def __init__(self, searches: Sequence[Search], runs: Path, budget: Budget, driver: str = "") -> None:
        """Open the journals of the searches. No trial begins before `ensure_waiting`.

        Args:
            searches: of the study.
            runs: the folder of run folders.
            budget: of each search.
            driver: readable name of this driver, for its trials and claims.
        """
        super().__init__({}, set(), driver)
        self.folder, self.budget = runs, budget
        self.runs: dict[str, PlannedTrial] = {}
        self.searches: dict[str, Search] = {}
        self.journals: dict[str, Journal] = {}
        self.trials_at_launch: dict[str, int] = {}
        self.damaged: dict[str, str] = {}  # by search, what is wrong with its journal; the others go on without it
        for search in searches:
            try:
                self.journals[search.key] = Journal(runs, search.key, search.metric, driver)
                self.trials_at_launch[search.key] = len(self.trials(search.key))
                self.searches[search.key] = search
            except JournalError as error:
                self.damaged[str(search)] = str(error)
        self.unclaimed_since: dict[str, float] = {}  # by the token of the trial's owner

    def trials(self, search: str) -> list[FrozenTrial]:
        """Read the trials of a search."""
        return self.journals[search].trials()

    def is_complete(self, search: str) -> bool:
        """Check whether a search is over: no trial runs, and none may begin."""
        trials = self.trials(search)
        running = any(trial.state == TrialState.RUNNING for trial in trials)
        return (
            not running
            and not self.trials_to_retry(search)
            and not self.searches[search].can_begin_trial(trials, self.budget)
        )

    def take(self) -> str | None:
        """Return the key of the next trial, or None if none can start now."""
        while self.waiting:
            key = self.waiting.popleft()
            if self.is_unfinished(self.runs[key]):
                self.running.add(key)
                return key
            del self.runs[key]
            self.elsewhere.add(
                key
            )  # until `check_elsewhere`, so that an engine without work waits instead of raising an error
        planned = self.next_trial()
        if planned is None:
            return None
        self.runs[planned.key] = planned
        self.running.add(planned.key)
        return planned.key

    def end(self, key: str, outcome: Outcome) -> None:
        """Record in the journal how a trial ended. Drop a trial that another driver has taken over."""
        planned = self.runs[key]
        self.running.discard(key)
        if outcome.state == "blocked":
            return  # it has not ended, and resumes when the disk is usable again
        if outcome.state == "elsewhere":
            del self.runs[key]
        elif outcome.state == "finished":
            self.finished.add(key)
            end = RunFolder(self.folder, key).read_result()
            recorded = end["state"], end["value"], end["reason"], end["plain_trainings"]
            self.journals[planned.search].tell(planned.number, *recorded)
        else:
            self.failed[key] = outcome
            self.journals[planned.search].tell(planned.number, "failed", None, outcome.reason, 0.0)
        self.ensure_waiting()

    def check_elsewhere(self, root: Path) -> Iterator[tuple[str, Outcome]]:
        """Forget the trials that other drivers ended, which the journal has already, and find the next trial."""
        self.elsewhere.clear()
        self.ensure_waiting()
        return iter(())

    def ensure_waiting(self) -> None:
        """Find the next trial if none runs or waits, so that an engine sees whether there is work."""
        if not self.running and not self.waiting and (planned := self.next_trial()):
            self.runs[planned.key] = planned
            self.waiting.append(planned.key)

    def is_unfinished(self, planned: PlannedTrial) -> bool:
        """Check that no other driver has ended a trial meanwhile."""
        return not self.trials(planned.search)[planned.number].state.is_finished()

    def count_on_other_drivers(self) -> int:
        """Count the running trials of other drivers."""
        ours = {(planned.search, planned.number) for planned in self.runs.values()}
        return sum(
            trial.state == TrialState.RUNNING and (key, trial.number) not in ours
            for key in self.searches
            for trial in self.trials(key)
        )

    def next_trial(self) -> PlannedTrial | None:
        """Find or begin a trial, of the search with the fewest running trials of this driver."""
        busy = [self.runs[key].search for key in self.running]
        for key in sorted(self.searches, key=busy.count):  # a stable sort: ties keep the order of the study
            if planned := self.next_trial_of(self.searches[key]):
                return planned
        return None

    def next_trial_of(self, search: Search) -> PlannedTrial | None:
        """Find an abandoned trial of a search, or begin a new one. Return None if there is neither."""
        journal = self.journals[search.key]
        with FileLock((self.folder / search_folder(search.key)).absolute() / "asking.lock"):
            for trial in journal.trials():
                if trial.state == TrialState.RUNNING and self.is_abandoned(search, trial):
                    journal.take_over(trial.number)
                    return self.plan_trial(search, trial)
            for failed in self.trials_to_retry(search.key)[:1]:
                kept = {name: failed.user_attrs[name] for name in ("key", "method", "expected")}
                journal.begin(failed.params, failed.distributions, kept)
                return self.plan_trial(search, journal.trials()[-1])
            while search.can_begin_trial(journal.trials(), self.budget):
                proposal = search.propose(journal.trials(), self.budget)
                if proposal.run is None:
                    journal.refuse(proposal.values, search.space, proposal.attributes, proposal.refused)
                    continue
                journal.begin(proposal.values, search.space, proposal.attributes)
                return self.plan_trial(search, journal.trials()[-1])
        return None

    def trials_to_retry(self, search: str) -> list[FrozenTrial]:
        """List the trials that failed before this launch and were not retried. Failed runs are retried likewise."""
        failed = self.searches[search].unretried_failures(self.trials(search))
        return [trial for trial in failed if trial.number < self.trials_at_launch[search]]

    def is_abandoned(self, search: Search, trial: FrozenTrial) -> bool:
        """Check whether no process works on a running trial. It must be called repeatedly, because it measures time.

        A process that works on a trial claims the trial's folder. An owner that has not claimed it has `START_TIMEOUT`
        to do so, unless its process is known to be dead.
        """
        planned = self.plan_trial(search, trial)
        if planned.key in self.running or planned.key in self.waiting:
            return False
        folder, owner = RunFolder(self.folder, planned.key), trial_owner(trial)
        if folder.is_claimed():
            self.unclaimed_since.pop(owner.token, None)
            return self.claim_observer.is_free(folder.path)
        since = self.unclaimed_since.setdefault(owner.token, time.monotonic())
        return owner.is_dead() or time.monotonic() - since > START_TIMEOUT

    def plan_trial(self, search: Search, trial: FrozenTrial) -> PlannedTrial:
        """Return a trial as a planned run."""
        method = with_values(search.run.method, trial.params, search.methods)
        run = search.run.model_copy(update={"method": method})
        return PlannedTrial(
            run=run,
            labels=(search.label,),
            role="trial",
            needs=(),
            epochs=run.recipe.epochs,
            search=search.key,
            number=trial.number,
            metric=search.metric,
            prune=search.prune and trial.params != search.defaults,  # the chosen values are compared with the defaults
            values=dict(trial.params),
        )
