"""Execution of one trial: a run that is scored on validation data after every epoch, and may be pruned."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.evaluation.each_epoch import EpochEvaluator
from harness.evaluation.landscape import Landscape
from harness.evaluation.weight_space import accuracy_and_nll
from harness.planning.planned_runs import Planned
from harness.running.execute import run_claimed
from harness.running.lifecycle import RunLifecycle
from harness.running.result import COUNTED_COSTS, TIMED_COSTS, select_costs
from harness.running.settings import Settings
from harness.store.environment import describe_environment
from harness.store.outcome import DivergenceError, Outcome, check_finite
from harness.store.run_folder import RunFolder, write_json, write_json_lines
from harness.studies.run import Run
from harness.tuning.pruning import REDUCTION_FACTOR, departure_epoch, rungs, survives_rung
from harness.tuning.trial_journal import EndState, Journal, Metric, search_folder


class Pruned(Exception):  # noqa: N818 - an early end, not an error
    """A trial is worse than other trials at the same epoch."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial(Planned):
    """One trial of a search.

    Attributes:
        search: key of the search.
        number: of the trial, in its search.
        metric: the metric to optimize.
        prune: whether the trial may be pruned.
        values: searched hyperparameters, by name.
    """

    run: Run
    search: str
    number: int
    metric: Metric
    prune: bool
    values: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """The folder of the trial, inside that of its search. Its MLflow run has the same name."""
        return f"{search_folder(self.search)}/{self.run.key}"


def execute_trial(planned: PlannedTrial, settings: Settings, report: Callable[[], None]) -> Outcome:
    """Start or resume a trial. Errors in it are recorded in its folder and not raised.

    Args:
        planned: the trial. The journal of its search must contain it.
        settings: where and on which device to execute.
        report: called at the end of every epoch.

    Returns:
        How the trial ended. A pruned or diverged trial is "finished" too; its `result.json` has the difference.
    """
    folder = RunFolder(settings.runs, planned.key)
    outcome = run_claimed(
        planned.run, settings, folder, lambda: TrialExecution(planned, settings, folder, report).finish([])
    )
    if outcome.state == "finished":  # its checkpoint is not needed any more
        folder.checkpoint.unlink(missing_ok=True)
        folder.progress.unlink(missing_ok=True)
    return outcome


class TrialExecution(RunLifecycle):
    """Executes a trial in one process. It never loads the test set or the OOD datasets."""

    def __init__(
        self, planned: PlannedTrial, settings: Settings, folder: RunFolder, report: Callable[[], None]
    ) -> None:
        """Load the data, build the method and open the journal."""
        self.planned = planned
        self.journal = Journal(settings.runs, planned.search, planned.metric)
        super().__init__(planned.run, settings, folder, report)

    def each_epoch(self) -> EpochEvaluator:
        """Score every epoch on validation data."""
        validation = self.data.held_out("validation")
        return EpochEvaluator(("validation",), self.method, validation, self.data.for_statistics("prepare"))

    def finish(self, needed: list[str]) -> None:
        """Train what is left of the trial, and write its result. Being pruned or diverging is a result too."""
        try:
            super().finish(needed)
        except Pruned as pruned:
            self.write_end("pruned", {}, reason=str(pruned))
        except DivergenceError as error:
            self.write_end("diverged", {}, reason=str(error))

    def resume(self) -> bool:
        """Load the checkpoint.

        The pruning decision of its last epoch is repeated, because the trial may have been killed before it.
        """
        prepared = super().resume()
        if self.history and not prepared:
            self.prune_if_worse()
        return prepared

    def end_epoch(self) -> None:
        """Report the end of an epoch, then decide whether to continue."""
        super().end_epoch()
        self.prune_if_worse()

    def prune_if_worse(self) -> None:
        """Report the last epoch to the journal, and stop the trial if it is worse than others at the same epoch.

        Before the method departs from plain training, nothing is reported and the trial is not compared: until then
        all trials train alike.

        Raises:
            Pruned: if the trial is to stop.
        """
        if self.epoch >= self.method.epochs or self.epoch <= departure_epoch(self.method):
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
        if not survives_rung(value, others, lower=self.planned.metric == "nll"):
            raise Pruned(
                f"validation {self.planned.metric} {value:.4g} after epoch {self.epoch}: "
                f"not in the better 1/{REDUCTION_FACTOR} of {len(others) + 1} trials"
            )

    def write_result(self, parts: list[RunFolder], around: Landscape) -> None:
        """Score the finished method on validation data."""
        self.method.eval()
        score = accuracy_and_nll(self.method.predict, self.data.held_out("validation")).as_metrics("validation")
        check_finite(score, "at the end")
        self.write_end("finished", score)

    def write_end(self, state: EndState, score: dict[str, float], reason: str = "") -> None:
        """Write the epochs, then the result: how the trial ended, its score and its cost."""
        self.check_data()
        write_json_lines(self.folder.metrics, self.history)
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
                "provenance": describe_environment(self.device) | self.execution_details(),
            },
        )
