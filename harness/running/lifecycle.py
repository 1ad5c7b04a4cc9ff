"""The life of one run: it is started or resumed, trained, prepared for prediction and evaluated; its result is written.

The result is written last. A run is finished if and only if its result exists.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from data import ImageTask, TextTask
from harness.costs.cost import CostCounter
from harness.costs.peak_memory import PeakMemory
from harness.evaluation.each_epoch import EpochEvaluator
from harness.evaluation.evaluate import evaluate, evaluation_batch_size
from harness.evaluation.evaluate_text import evaluate_text
from harness.evaluation.landscape import Landscape, LandscapeData, measure_landscape
from harness.parsing.plugins import available_methods
from harness.planning.trunks import TrunkRun
from harness.running.distributed.group import SINGLE_PROCESS, Group
from harness.running.method_setup import example_inputs, set_up_method
from harness.running.needed_runs import NeededRunError, find_finished, load_finished
from harness.running.result import make_result, make_trunk_result
from harness.running.run_data import RunData, check_files_in_training, check_official_files, load_task
from harness.running.run_state import RunState
from harness.running.settings import Settings
from harness.running.training_loop import train_epoch, warm_up_epoch
from harness.running.worker_process import set_up_device
from harness.store.checkpoint import CheckpointTimer
from harness.store.outcome import check_finite
from harness.store.progress import ProgressFile
from harness.store.run_folder import RunFolder, write_atomically, write_json
from harness.store.source_archive import check_sources
from harness.studies.build_method import make_method, seeded_needs
from harness.studies.extra_measurements import ExtraMeasurements
from harness.studies.run import Run
from methods import Anchor, Batch, PreparationData, prepare_for_prediction
from methods.core.random_streams import all_seeded, stream
from methods.core.weight_averaging import check_averages
from methods.core.wrapper import methods_within


class RunLifecycle:
    """One run, or one trunk, in one process. Of several ranks that train a run, rank 0 writes files and evaluates."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        folder: RunFolder,
        report: Callable[[], None],
        trunks: Sequence[str] = (),
        group: Group = SINGLE_PROCESS,
        *,
        until: int | None = None,
        contained: Collection[str] = (),
    ) -> None:
        """Load the data, and build the method and its optimizer.

        Args:
            run: the run's spec.
            settings: folders, device and speed options.
            folder: the folder of the run, or of the trunk that is trained.
            report: called at the end of every epoch.
            trunks: keys of the trunks that the run can be forked from, the latest first.
            group: the ranks that train the run together.
            until: the number of epochs of the trunk to train; None to train the whole run.
            contained: keys of needed states that are no part of its cost, for it needs runs that pass through them.
        """
        self.run, self.folder, self.report, self.settings, self.group = run, folder, report, settings, group
        self.trunks, self.contained = trunks, contained
        self.progress = ProgressFile(None if group.rank else folder.progress, settings.device)
        self.device = torch.device(settings.device)
        set_up_device(self.device, deterministic=settings.deterministic)
        self.task = load_task(run.dataset, settings.downloads, self.device, settings.decoders)
        self.memory, self.counter = PeakMemory(self.device), CostCounter()
        self.methods = available_methods(settings.plugins)
        check_sources(run.method, self.methods)
        setup = set_up_method(run, settings, self.task, self.counter, group, self.methods)
        self.method, self.optimizer, self.compile, self.fuse_up_to = setup
        self.state = RunState(
            self.method,
            self.optimizer,
            self.counter,
            self.memory,
            folder,
            is_trunk=until is not None,
            is_writer=not group.rank,
        )
        self.epochs = self.method.epochs if until is None else until
        state = self.state  # not `self`, which would never be freed by itself: it would refer to itself
        self.data = RunData(self.task, run, group, lambda: state.epoch)

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return self.state.epoch

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per epoch."""
        return self.state.history

    # --- the whole life ---------------------------------------------------------------------------------------

    def finish(self, needed: list[str]) -> None:
        """Do what is left of the run.

        Args:
            needed: keys of the finished runs and trunks that it starts from, then of those that its evaluation uses.
        """
        folders = find_finished(self.settings.runs, needed)
        count = len(seeded_needs(self.method))
        if len(folders) < count:
            raise NeededRunError(f"it needs {count} runs, and the plan knew of {len(folders)}")
        parts, reference_runs = folders[:count], folders[count:]
        prepared = self.start_or_resume()
        if not prepared:
            self.receive(parts)
            self.train()
            self.prepare()
        self.progress.enter_stage("evaluating")
        if not self.group.rank:
            with self.seeded("landscape"):
                around = self.explore(reference_runs)
            with self.seeded("predict"):
                self.write_result(parts, around)
            self.folder.progress.unlink(missing_ok=True)
        self.group.barrier()

    def finish_trunk(self, trunk: TrunkRun, needed: list[str]) -> None:
        """Do what is left of a trunk. Its state is its result; it is not evaluated.

        Args:
            trunk: the trunk's spec.
            needed: keys of the finished runs and trunks that it starts from.
        """
        parts = find_finished(self.settings.runs, needed)
        self.start_or_resume()
        self.receive(parts)
        unfinished = self.epoch < self.epochs
        if unfinished:
            self.train()
        if not self.group.rank:
            if unfinished:
                self.state.save()
            self.check_data()
            cost, spent = self.counter.cost, self.counter.cost - self.state.inherited
            results = [part.read_result() for part in parts]
            result = make_trunk_result(trunk, self.method, cost, spent, results, self.device, self.contained)
            result["provenance"] |= self.execution_details()
            write_json(self.folder.result, result)
            self.folder.progress.unlink(missing_ok=True)
        self.group.barrier()

    def seeded(self, hook: str) -> AbstractContextManager[None]:
        """Seed the global generators for a hook, so that its random numbers depend on nothing but the run's seed."""
        return all_seeded(stream(self.run.seed, f"global generators in {hook}"), self.device)

    # --- starting ---------------------------------------------------------------------------------------------

    def start_or_resume(self) -> bool:
        """Restore the run's own checkpoint, else fork it from a trunk; return whether it is prepared for prediction.

        Raises:
            RuntimeError: if ranks found different states.
        """
        with self.group.rank_0_first():
            prepared = self.resume()
            if not prepared and not self.epoch and self.epochs:
                self.state.fork_from([RunFolder(self.settings.runs, key) for key in self.trunks], str(self.run))
        if self.group.size > 1 and len(set(self.group.exchange(self.epoch))) > 1:
            raise RuntimeError("a state was removed while ranks read it; started again, the run goes on")
        return prepared

    def resume(self) -> bool:
        """Restore the run's own checkpoint, if it exists; return whether it is the finished state."""
        return self.state.resume(str(self.run))

    def receive(self, parts: list[RunFolder]) -> None:
        """Give the method the states of the runs that it starts from, unless an epoch is done already."""
        if not self.epoch:
            states = [load_finished(part) for part in parts]
            with self.seeded("receive"):
                self.method.receive(states)

    # --- training ---------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train the epochs that are left; save a checkpoint now and then."""
        held_out, statistics = self.held_out(), self.group.divide(self.data.for_statistics("watch"))
        with self.memory.excluding():
            each_epoch = self.each_epoch()
        self.progress.begin_training(self.epoch, self.epochs)
        self.first_epoch = self.epoch
        timer = CheckpointTimer(self.settings.checkpoint_seconds)
        for epoch in range(self.epoch, self.epochs):
            assert self.optimizer is not None
            if self.sees_new_shapes(epoch):
                self.warm_up(epoch)
            with self.group.joint_training(self.counter), self.counter.training(self.device):
                loss, rate = train_epoch(self.method, self.optimizer, self.data.training, epoch, self.group.mean)
                if held_out:
                    self.method.watch(held_out, statistics)
            if not self.counter.cost.forward_examples:
                raise ValueError(f"{self.run.method} trains without a network that make_net drew: no work is counted")
            self.state.epoch = epoch + 1
            self.group.average_carried_gradients(self.method)
            if self.group.rank:
                continue
            with self.memory.excluding():
                measured = each_epoch.measure(self.method) if each_epoch else {}
            line = {"epoch": self.epoch, "time": time.time(), "train/loss": loss, "train/lr": rate, **measured}
            self.history.append(line)
            if timer.is_due():
                with timer.saving():
                    self.state.save()
            self.progress.complete_epoch(self.epoch, line)
            self.end_epoch()

    def sees_new_shapes(self, epoch: int) -> bool:
        """Return whether an epoch is the first of its kind here, on a GPU, which then searches for algorithms.

        The seconds of a compiled network contain its compilation, and with it this search.
        """
        if self.device.type != "cuda" or self.compile != "off":
            return False
        return epoch == self.first_epoch or epoch in {part.start_epoch for part in methods_within(self.method)}

    def warm_up(self, epoch: int) -> None:
        """Let the device see all shapes of an epoch before its seconds are counted."""
        watches = self.method.watches
        watched = (self.data.held_out(watches), self.data.for_statistics("watch")) if watches else ()
        with self.memory.excluding(), self.seeded("warm-up"):
            warm_up_epoch(self.method, self.data.training, epoch, watched)

    def end_epoch(self) -> None:
        """Report the end of an epoch."""
        self.report()

    def held_out(self) -> Iterable[Batch] | None:
        """Return the held-out data that the method asks for by `watches`; None if it asks for none."""
        if not self.method.watches:
            return None
        return self.group.whole_batches(self.data.held_out(self.method.watches), self.counter)

    def each_epoch(self) -> EpochEvaluator | None:
        """Return what measures the method after every epoch; None if the study does not ask for that."""
        asked = () if self.group.rank else self.run.evaluate.each_epoch
        if not asked:
            return None
        watches = self.method.watches
        data = PreparationData(self.data.for_statistics("prepare"), self.data.held_out(watches) if watches else None)
        return EpochEvaluator(asked, self.method, self.data.held_out("test"), data)

    # --- prediction and evaluation ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Prepare the method for prediction, and save the finished state.

        Raises:
            ValueError: if the method averages what does not predict.
        """
        self.progress.enter_stage("preparing")
        with self.group.joint_training(self.counter), self.counter.training(self.device), self.seeded("prepare"):
            training = self.group.divide(self.data.for_statistics("prepare"))
            prepare_for_prediction(self.method, PreparationData(training, self.held_out()))
        with self.seeded("predict"):
            check_averages(self.method, example_inputs(self.task.shape).to(self.device))
        if not self.group.rank:
            self.state.save(prepared=True)

    def explore(self, reference_runs: list[RunFolder]) -> Landscape:
        """Measure what the study asks for in addition to scores, such as the loss landscape.

        Args:
            reference_runs: the finished run of plain training, if the study asks for it.
        """
        if self.run.evaluate == ExtraMeasurements():
            return Landscape()
        task, statistics = self.task, self.data.for_statistics("prepare")
        corrupted = (
            partial(task.corrupted_part, batch_size=evaluation_batch_size(task))
            if isinstance(task, ImageTask)
            else None
        )
        examples = LandscapeData(self.data.held_out("test"), self.data.held_out("train"), statistics, corrupted)
        plain = None
        if reference_runs:
            other = make_method(self.run.plain(self.methods), self.methods, self.task.shape)
            other.load_state_dict(load_finished(reference_runs[0]))
            plain = Anchor(dict(other.to(self.device).net.named_parameters()))
        return measure_landscape(self.method, self.run.evaluate, examples, plain)

    def write_result(self, parts: list[RunFolder], around: Landscape) -> None:
        """Evaluate the method; write predictions and arrays, then the result.

        Args:
            parts: folders of the runs and trunks that this run started from.
            around: what `explore` measured.

        Raises:
            DivergenceError: if a metric is not finite.
        """
        if isinstance(self.task, ImageTask):
            found = evaluate(self.method, self.task, self.counter, self.run.evaluate.calibration_bins)
        else:
            assert isinstance(self.task, TextTask)
            found = evaluate_text(self.method, self.task, self.counter, self.run.evaluate.calibration_bins)
        if not found.forwards_per_example:
            raise ValueError(f"{self.run.method} predicts without a network that make_net drew: no work is counted")
        self.check_data()
        check_finite({**found.metrics, **around.metrics}, "at evaluation")
        write_atomically(self.folder.predictions, found.save_predictions)
        if around.arrays:
            write_atomically(self.folder.arrays, around.save_arrays)
        needed = [part.read_result() for part in parts]
        cost, spent = self.counter.cost, self.counter.cost - self.state.inherited
        result = make_result(self.run, self.method, found, around, cost, spent, needed, self.device, self.contained)
        result["provenance"] |= self.execution_details()
        write_json(self.folder.result, result)

    def check_data(self) -> None:
        """Check the files that were read until now, before a result is written.

        Raises:
            ValueError: naming what was changed meanwhile. The checkpoint is removed if it may have been trained on it.
        """
        check_official_files(self.task)
        try:
            check_files_in_training(self.run.dataset, self.task)
        except ValueError:
            self.folder.checkpoint.unlink(missing_ok=True)
            raise

    def execution_details(self) -> dict[str, str]:
        """Return how the run was computed, where that may affect rounding, and on which official corrupted files."""
        ranks = {"ranks": str(self.group.size)} if self.group.size > 1 else {}
        official = self.task.official if isinstance(self.task, ImageTask) else None
        files = {"official_corruptions": official.digest} if official else {}
        return {"compile": self.compile, "fuse_up_to": str(self.fuse_up_to), **ranks, **files}
