"""Tuning a study: the schedule that hands out the trials of its searches."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from harness.planning.schedule import Schedule
from harness.store.outcome import Outcome
from harness.store.run_folder import RunFolder, read_json
from harness.tuning.search import Search
from harness.tuning.search_space import with_values
from harness.tuning.trial import PlannedTrial
from harness.tuning.trial_budget import Budget
from harness.tuning.trial_journal import Journal, folder_of, owner_of

PATIENCE = 60.0
"""Seconds that another driver has to start a trial that it began, by this one's clock, before it counts as left."""


class Trials(Schedule):
    """Hands out the trials of searches: those that were left behind, then new ones, while the budget lasts.

    One trial after another of one search if one worker asks; several workers share out the searches first, since a
    search learns more the fewer trials of it run at once.
    """

    def __init__(self, searches: Sequence[Search], runs: Path, budget: Budget, driver: str = "") -> None:
        """Open the searches' journals; no trial begins before `fill`.

        Args:
            searches: what is tuned.
            runs: the folder of run folders.
            budget: of each search.
            driver: what trials and claims of this driver call it.
        """
        super().__init__({}, set(), driver)
        self.folder, self.budget = runs, budget
        self.runs: dict[str, PlannedTrial] = {}
        self.searches = {search.key: search for search in searches}
        self.journals = {search.key: Journal(runs, search.key, search.metric, driver) for search in searches}
        self.before = {key: len(self.trials(key)) for key in self.searches}
        self.begun: dict[str, float] = {}  # by the token of an owner, since when its trial is not claimed

    def trials(self, search: str) -> list[FrozenTrial]:
        """Read a search's trials."""
        return self.journals[search].trials()

    def complete(self, search: str) -> bool:
        """Say whether a search is over: nothing runs, and the budget allows no more."""
        trials = self.trials(search)
        running = any(trial.state == TrialState.RUNNING for trial in trials)
        return not running and not self.to_retry(search) and not self.searches[search].open(trials, self.budget)

    def take(self) -> str | None:
        """Take the next trial, or None."""
        while self.waiting:
            key = self.waiting.popleft()
            if self.unfinished(self.runs[key]):
                self.running.add(key)
                return key
            del self.runs[key]
            self.elsewhere.add(key)  # until `check_elsewhere`: an engine without work must not think that none can come
        planned = self.next()
        if planned is None:
            return None
        self.runs[planned.key] = planned
        self.running.add(planned.key)
        return planned.key

    def end(self, key: str, outcome: Outcome) -> None:
        """Tell the journal how a trial ended; one that another driver has taken over is that one's now."""
        planned = self.runs[key]
        self.running.discard(key)
        if outcome.state == "blocked":
            return  # it has not ended, and goes on once the disk is mended
        if outcome.state == "elsewhere":
            del self.runs[key]
        elif outcome.state == "finished":
            self.finished.add(key)
            end = read_json(RunFolder(self.folder, key).result)
            known = end["state"], end["value"], end["reason"], end["plain_trainings"]
            self.journals[planned.search].tell(planned.number, *known)
        else:
            self.failed[key] = outcome
            self.journals[planned.search].tell(planned.number, "failed", None, outcome.reason, 0.0)
        self.fill()

    def check_elsewhere(self, root: Path) -> Iterator[tuple[str, Outcome]]:
        """Forget what other drivers ended, who have told the journal of it, and see what is left to do."""
        self.elsewhere.clear()
        self.fill()
        return iter(())

    def fill(self) -> None:
        """Have a trial waiting when nothing runs, so that an engine sees that there is work."""
        if not self.running and not self.waiting and (planned := self.next()):
            self.runs[planned.key] = planned
            self.waiting.append(planned.key)

    def unfinished(self, planned: PlannedTrial) -> bool:
        """Say whether no other driver finished a trial meanwhile."""
        return not self.trials(planned.search)[planned.number].state.is_finished()

    def by_other_drivers(self) -> int:
        """Count the trials that other drivers work on."""
        ours = {(planned.search, planned.number) for planned in self.runs.values()}
        return sum(
            trial.state == TrialState.RUNNING and (key, trial.number) not in ours
            for key in self.searches
            for trial in self.trials(key)
        )

    def next(self) -> PlannedTrial | None:
        """Find or begin a trial, of a search of which none runs if there is one."""
        busy = [self.runs[key].search for key in self.running]
        for key in sorted(self.searches, key=busy.count):  # stable: the order of the study within
            if planned := self.next_of(self.searches[key]):
                return planned
        return None

    def next_of(self, search: Search) -> PlannedTrial | None:
        """Find a trial of a search that was left behind, or begin one; None if there is none."""
        journal = self.journals[search.key]
        with FileLock((self.folder / folder_of(search.key)).absolute() / "asking.lock"):
            for trial in journal.trials():
                if trial.state == TrialState.RUNNING and self.left_behind(search, trial):
                    journal.adopt(trial.number)
                    return self.plan(search, trial)
            for failed in self.to_retry(search.key)[:1]:
                kept = {name: failed.user_attrs[name] for name in ("key", "method", "expected")}
                journal.begin(failed.params, failed.distributions, kept)
                return self.plan(search, journal.trials()[-1])
            while search.open(journal.trials(), self.budget):
                proposal = search.propose(journal.trials(), self.budget)
                if proposal.run is None:
                    journal.refuse(proposal.values, search.space, proposal.attributes, proposal.refused)
                    continue
                journal.begin(proposal.values, search.space, proposal.attributes)
                return self.plan(search, journal.trials()[-1])
        return None

    def to_retry(self, search: str) -> list[FrozenTrial]:
        """List the trials that failed before this launch and were not tried again since, as failed runs are."""
        failed = self.searches[search].not_tried_again(self.trials(search))
        return [trial for trial in failed if trial.number < self.before[search]]

    def left_behind(self, search: Search, trial: FrozenTrial) -> bool:
        """Say whether nobody works on a running trial; to be asked again and again.

        Who works on it claims its folder. Until then its owner has some time, unless its process is known to be dead.
        """
        planned = self.plan(search, trial)
        if planned.key in self.running or planned.key in self.waiting:
            return False
        folder, owner = RunFolder(self.folder, planned.key), owner_of(trial)
        if folder.locked():
            self.begun.pop(owner.token, None)
            return self.lookout.free(folder.path)
        since = self.begun.setdefault(owner.token, time.monotonic())
        return owner.dead() or time.monotonic() - since > PATIENCE

    def plan(self, search: Search, trial: FrozenTrial) -> PlannedTrial:
        """Give the run of a trial."""
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
            prune=search.prune and trial.params != search.defaults,  # what is chosen is compared with the defaults
            values=dict(trial.params),
        )
