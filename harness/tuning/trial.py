"""One trial: a run that is scored on validation data only, after every epoch, and stopped if it does badly."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.evaluation.each_epoch import EachEpoch
from harness.evaluation.landscape import Landscape
from harness.evaluation.weight_space import tally
from harness.planning.plan import Planned
from harness.running.execute import run_claimed
from harness.running.lifecycle import RunLifecycle
from harness.running.result import COUNTED_COSTS, TIMED_COSTS, select_costs
from harness.running.settings import Settings
from harness.store.environment import provenance
from harness.store.outcome import DivergenceError, Outcome
from harness.store.run_folder import RunFolder, write_json, write_lines
from harness.studies.run import Run
from harness.tuning.trial_journal import Ended, Journal, Metric, folder_of
from methods import Method
from methods.core.wrapper import methods_within

FACTOR = 2
"""At each judgement the better half goes on (η of successive halving)."""
FIRST = 1 / 3
"""Of all epochs, before the first judgement: earlier, at the full learning rate, ranks say little about the end."""


class Pruned(Exception):  # noqa: N818 - an early end, no error
    """A trial does worse than others at the same epoch."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial(Planned):
    """One trial of a search.

    Attributes:
        search: the search's key.
        number: of the trial.
        metric: what is made better.
        prune: whether it is stopped if it does badly.
        values: of the searched hyperparameters.
    """

    run: Run
    search: str
    number: int
    metric: Metric
    prune: bool
    values: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """The name of its folder, inside of its search's, and of its MLflow run."""
        return f"{folder_of(self.search)}/{self.run.key}"


def execute_trial(planned: PlannedTrial, settings: Settings, report: Callable[[], None]) -> Outcome:
    """Execute a trial: start it or go on with it; whatever goes wrong in it is recorded in its folder and never raised.

    Args:
        planned: the trial, which is in its search's journal.
        settings: where and on what.
        report: called at the end of every epoch.

    Returns:
        "finished" also for a trial that was pruned or diverged: `result.json` says so.
    """
    folder = RunFolder(settings.runs, planned.key)
    outcome = run_claimed(planned.run, settings, folder, lambda: Trial(planned, settings, folder, report).finish([]))
    if outcome.state == "finished":  # its states are of no further use
        folder.checkpoint.unlink(missing_ok=True)
        folder.progress.unlink(missing_ok=True)
    return outcome


class Trial(RunLifecycle):
    """A trial in one process. The test set and the companions of the task are never asked for."""

    def __init__(
        self, planned: PlannedTrial, settings: Settings, folder: RunFolder, report: Callable[[], None]
    ) -> None:
        """Load the data, build the method, open the journal."""
        self.planned, self.watched = planned, report
        self.journal = Journal(settings.runs, planned.search, planned.metric)
        super().__init__(planned.run, settings, folder, self.end_epoch)

    def each_epoch(self) -> EachEpoch:
        """Score every epoch on validation data."""
        validation = self.data.held_out("validation")
        return EachEpoch(("validation",), self.method, validation, self.data.for_statistics("prepare"))

    def finish(self, needed: list[str]) -> None:
        """Do what is left of the trial; early ends are results too."""
        try:
            super().finish(needed)
        except Pruned as pruned:
            self.write_end("pruned", {}, reason=str(pruned))
        except DivergenceError as error:
            self.write_end("diverged", {}, reason=str(error))

    def resume(self) -> bool:
        """Go on from the checkpoint; its last epoch is judged again, for a kill may have come before the judgement."""
        prepared = super().resume()
        if self.history and not prepared:
            self.judge()
        return prepared

    def end_epoch(self) -> None:
        """Tell who watches, then judge."""
        self.watched()
        self.judge()

    def judge(self) -> None:
        """Report the last epoch to the journal, once the method's own phase has begun, and decide whether to go on.

        Trials of one search are compared at equal epochs only. One that has not begun what its method does is plain
        training so far: it is neither judged nor compared with.

        Raises:
            Pruned: if it is to stop.
        """
        if self.epoch >= self.method.epochs or self.epoch <= departure(self.method):
            return
        value = self.history[-1][f"validation/{self.planned.metric}"]
        self.journal.report(self.planned.number, self.epoch, value)
        if not self.planned.prune or self.epoch not in rungs(self.method.epochs):
            return
        others = [
            trial.intermediate_values[self.epoch]
            for trial in self.journal.trials()
            if trial.number != self.planned.number and self.epoch in trial.intermediate_values
        ]
        if not goes_on(value, others, lower=self.planned.metric == "nll"):
            raise Pruned(
                f"validation {self.planned.metric} {value:.4g} after epoch {self.epoch}: "
                f"not in the better 1/{FACTOR} of {len(others) + 1} trials"
            )

    def write_result(self, parts: list[RunFolder], around: Landscape) -> None:
        """Score the finished method on validation data."""
        self.method.eval()
        score = tally(self.method.predict, self.data.held_out("validation")).named("validation")
        if bad := [name for name, value in score.items() if not math.isfinite(value)]:
            raise DivergenceError(f"not a number at the end: {', '.join(bad)}")
        self.write_end("finished", score)

    def write_end(self, state: Ended, score: dict[str, float], reason: str = "") -> None:
        """Write how the trial ended, and what it cost; the result last."""
        write_lines(self.folder.metrics, self.history)
        cost = self.counter.cost
        plain = (1 + 2) * self.data.augmented.examples * self.run.recipe.epochs
        write_json(
            self.folder.result,
            {
                "run": str(self.run),
                "spec": self.run.spec(),
                "state": state,
                "reason": reason,
                "value": score.get(f"validation/{self.planned.metric}"),
                "metrics": score,
                "epoch": self.epoch,
                "plain_trainings": (cost.forward_examples + 2 * cost.backward_examples) / plain,
                "cost": select_costs(cost, COUNTED_COSTS),
                "timing": {**select_costs(cost, TIMED_COSTS, "cost/"), "finished": time.time()},
                "provenance": provenance(self.device) | self.execution_details(),
            },
        )


def departure(method: Method) -> int:
    """Give the epoch in which the last of a method's parts departs from plain training; 0 if none departs later."""
    return max((part.start_epoch for part in methods_within(method) if part.start_epoch < part.epochs), default=0)


def rungs(epochs: int) -> list[int]:
    """List the epochs after which trials are judged: a third of all, and FACTOR times as many while training lasts."""
    found, rung = [], max(1, math.ceil(FIRST * epochs))
    while rung < epochs:
        found.append(rung)
        rung *= FACTOR
    return found


def goes_on(value: float, others: Sequence[float], *, lower: bool) -> bool:
    """Say whether a trial is in the better part of those that came as far: asynchronous successive halving.

    The rule is that of Optuna's `SuccessiveHalvingPruner` (Li et al., A system for massively parallel hyperparameter
    tuning, MLSys 2020), as a function of what was reported. Optuna's own notes that a trial was compared before
    the trial stops, so that one killed in between would go on.

    Args:
        value: the trial's.
        others: of all others at the same epoch.
        lower: whether lower values are better.
    """
    sign = 1.0 if lower else -1.0
    ranked = sorted(sign * each for each in (value, *others))
    return sign * value <= ranked[max(len(ranked) // FACTOR, 1) - 1]
