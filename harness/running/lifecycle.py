"""One run in one process: resumed or started, trained, prepared, evaluated; its result is written last."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from data import ImageTask, TextTask
from harness.costs.cost import Cost, Counter
from harness.costs.peak_memory import PeakMemory
from harness.evaluation.each_epoch import EachEpoch
from harness.evaluation.evaluate import at_once, evaluate
from harness.evaluation.evaluate_text import evaluate_text
from harness.evaluation.landscape import Examples, Landscape, explore
from harness.parsing.plugins import available
from harness.planning.trunks import Trunk
from harness.running.compilation import clone_gradients, compile_forward
from harness.running.distributed.group import ALONE, Group
from harness.running.distributed.synchronized import DividedRecipe, synchronize
from harness.running.fusing_limit import fuse_up_to
from harness.running.optimizers import make_optimizer
from harness.running.precision import use_bfloat16
from harness.running.result import make_result, make_trunk_result
from harness.running.run_data import RunData, load_task
from harness.running.settings import Settings
from harness.running.training_loop import train_epoch
from harness.store import checkpoint as checkpoints
from harness.store.checkpoint import Checkpoint, CheckpointError
from harness.store.outcome import DivergenceError
from harness.store.progress import Progress
from harness.store.run_folder import RunFolder, read_json, write, write_json, write_lines
from harness.studies.build_method import make_method
from harness.studies.extra_measures import Measures
from harness.studies.run import Run
from methods import Anchor
from methods.core.forking import fork, fork_state
from methods.core.wrapper import methods_within


class NeedError(Exception):
    """A run that another one starts from is not there."""


class RunLifecycle:
    """One run in one process, which may be one of several ranks; rank 0 writes and evaluates."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        folder: RunFolder,
        report: Callable[[], None],
        trunks: Sequence[str] = (),
        group: Group = ALONE,
        *,
        until: int | None = None,
    ) -> None:
        """Load the data and build the method.

        Args:
            run: what to run.
            settings: where and on what.
            folder: of the run, or of the trunk of it that is trained.
            report: called at the end of every epoch.
            trunks: keys of the trunks that it can go on from, the latest first.
            group: the ranks that share the run.
            until: train a trunk of so many epochs; None for the whole run.
        """
        self.run, self.folder, self.report, self.settings, self.group = run, folder, report, settings, group
        self.trunks, self.is_trunk = trunks, until is not None
        self.inherited = Cost()
        self.progress = Progress(None if group.rank else folder.progress, settings.device)
        self.device = torch.device(settings.device)
        self.task = load_task(run.dataset, settings.downloads, self.device, settings.decoders)
        warm_up(self.device)
        self.memory = PeakMemory(self.device)
        self.counter = Counter()
        self.compile = settings.compile if isinstance(self.task, ImageTask) else "off"
        if self.compile != "off":
            torch.compiler.reset()  # a process keeps few programs, and would run what comes after them uncompiled
        self.methods = available(settings.plugins)
        self.weights = settings.downloads / "weights"
        recipe = DividedRecipe.of(run.recipe, group)
        self.method = make_method(run, self.methods, self.task.shape, self.attach, self.weights, recipe).to(self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        if self.method.epochs:
            checkpoints.check_names(self.method)
            self.optimizer = make_optimizer(self.method, self.method.recipe)
            self.optimizer.register_step_post_hook(self.counter.step)
        if self.compile == "reduce-overhead":
            clone_gradients(self.method)
        self.fuse_up_to = fuse_up_to(settings, run, self.task.shape)
        for part in methods_within(self.method):
            part.fuse_up_to = self.fuse_up_to
        group.share_gradients(self.method, self.optimizer)
        self.epoch, self.epochs = 0, self.method.epochs if until is None else until
        self.data = RunData(self.task, run, group, lambda: self.epoch)
        self.history: list[dict[str, Any]] = []

    def attach(self, net: nn.Module) -> nn.Module:
        """Set up a network as it is drawn: synchronised layers, memory layout, program, cost hooks, precision."""
        net = synchronize(net, self.group).to(memory_format=torch.channels_last)
        if self.compile != "off":
            compile_forward(net, self.compile)
        net.register_forward_pre_hook(self.counter)
        if self.run.precision == "bfloat16":
            use_bfloat16(net, self.device.type)
        return net

    def find_needed(self, needed: list[str]) -> list[RunFolder]:
        """Give the folders of finished runs.

        Raises:
            NeedError: if one did not finish.
        """
        parts = [RunFolder(self.settings.runs, key) for key in needed]
        for part in parts:
            if not part.finished:
                reason = read_json(part.failure).get("reason", "it was not run")
                raise NeedError(f"it needs the run {part.key[:12]}, which did not finish: {reason}")
        return parts

    def finish(self, needed: list[str]) -> None:
        """Do what is left of the run."""
        parts = self.find_needed(needed)
        count = len(self.method.needs())
        parts, beside = parts[:count], parts[count:]
        prepared = self.begin()
        if not prepared:
            if not self.epoch:
                self.method.receive([load_finished(part) for part in parts])
            self.train()
            self.progress.enter("preparing")
            with self.group.together(self.counter), self.counter.training(self.device):
                self.method.prepare(self.group.part(self.data.for_statistics("prepare")))
            if not self.group.rank:
                self.save(prepared=True)
        self.progress.enter("evaluating")
        if not self.group.rank:
            self.write_result(parts, self.explore(beside))
            self.folder.progress.unlink(missing_ok=True)
        self.group.wait()

    def finish_trunk(self, trunk: Trunk, needed: list[str]) -> None:
        """Do what is left of a trunk: nothing is evaluated, its state is the result."""
        parts = self.find_needed(needed)
        self.begin()
        if not self.epoch:
            self.method.receive([load_finished(part) for part in parts])
        trained = self.epoch < self.epochs
        if trained:
            self.train()
        if not self.group.rank:
            if trained:
                self.save()
            cost = self.counter.cost
            result = make_trunk_result(trunk, cost, cost - self.inherited, self.device)
            result["provenance"] |= self.execution_details()
            write_json(self.folder.result, result)
            self.folder.progress.unlink(missing_ok=True)
        self.group.wait()

    def begin(self) -> bool:
        """Go on from the run's own checkpoint, else from a trunk; say whether it is the finished state.

        Raises:
            RuntimeError: if ranks found different states.
        """
        with self.group.in_turn():
            prepared = self.resume()
            if not prepared and not self.epoch and self.epochs:
                self.go_on_from_trunk()
        if self.group.size > 1 and len(set(self.group.counts(self.epoch))) > 1:
            raise RuntimeError("a state was removed while ranks read it; started again, the run goes on")
        return prepared

    def go_on_from_trunk(self) -> None:
        """Take the latest state that is there; the epochs after it, all if there is none, are trained as if alone.

        Raises:
            DivergenceError: if the trunk diverged, as this run then would.
        """
        for key in self.trunks:
            folder = RunFolder(self.settings.runs, key)
            failure = read_json(folder.failure)
            if failure.get("state") == "diverged":
                raise DivergenceError(f"{failure['reason']} (in the trunk that it goes on from)")
            try:
                if folder.finished:
                    saved = checkpoints.load(folder.checkpoint, key)
                    self.restore(saved)
                    self.inherited = saved.cost
                    return
            except FileNotFoundError:
                continue  # removed for its size
            except CheckpointError as error:
                folder.checkpoint.unlink(missing_ok=True)  # so that the trunk is trained again where that pays
                print(f"{error}; {self.run} trains these epochs itself", file=sys.stderr)

    def resume(self) -> bool:
        """Load the checkpoint if there is one; say whether it is the finished state.

        A checkpoint that cannot be read is put aside and the run starts anew.
        """
        if not self.folder.checkpoint.exists():
            return False
        try:
            saved = checkpoints.load(self.folder.checkpoint, self.folder.key)
        except CheckpointError as error:
            aside = self.folder.checkpoint.with_name("checkpoint.corrupt.pt")
            self.folder.checkpoint.replace(aside)
            print(f"{error}; put aside as {aside.name}, {self.run} starts anew", file=sys.stderr)
            return False
        self.inherited = saved.inherited
        self.restore(saved)
        return saved.prepared

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a state; of a trunk's, the method has only a part in common."""
        if saved.trunk:
            fork(self.method, saved.method, saved.epoch)
        else:
            self.method.load_state_dict(saved.method)
        if self.optimizer:
            checkpoints.load_optimizer_state(self.optimizer, saved.optimizer)
        self.epoch, self.history, self.counter.cost = saved.epoch, saved.history, replace(saved.cost)
        if not self.group.rank:
            write_lines(self.folder.metrics, self.history)

    def save(self, *, prepared: bool = False) -> None:
        """Write a checkpoint, then the epochs it holds."""
        cost = self.counter.cost
        cost.peak_memory_bytes = max(cost.peak_memory_bytes, self.memory.bytes())
        state = {} if prepared or not self.optimizer else checkpoints.optimizer_state(self.optimizer)
        Checkpoint(
            key=self.folder.key,
            epoch=self.epoch,
            prepared=prepared,
            trunk=self.is_trunk,
            method=fork_state(self.method, self.epoch) if self.is_trunk else self.method.state_dict(),
            optimizer=state,
            cost=self.counter.cost,
            history=self.history,
            inherited=self.inherited,
        ).save(self.folder.checkpoint)
        write_lines(self.folder.metrics, self.history)

    def each_epoch(self) -> EachEpoch | None:
        """Give what measures the method after every epoch, if the study asks for it."""
        asked = () if self.group.rank else self.run.evaluate.each_epoch
        if not asked:
            return None
        return EachEpoch(asked, self.method, self.data.held_out("test"), self.data.for_statistics("prepare"))

    def train(self) -> None:
        """Train the epochs that are left."""
        if self.method.watches:
            held_out = self.group.apart(self.data.held_out(self.method.watches), self.counter)
            shown = (held_out, self.group.part(self.data.for_statistics("watch")))
        else:
            shown = None
        with self.memory.leaving_out():
            each_epoch = self.each_epoch()
        self.progress.begin(self.epoch, self.epochs)
        saved = time.monotonic()
        for epoch in range(self.epoch, self.epochs):
            assert self.optimizer is not None
            with self.group.together(self.counter), self.counter.training(self.device):
                loss, rate = train_epoch(self.method, self.optimizer, self.data.in_order, epoch, self.group.mean)
                if shown:
                    self.method.watch(*shown)
            self.epoch = epoch + 1
            self.group.agree(self.method)
            if self.group.rank:
                continue
            with self.memory.leaving_out():
                measured = each_epoch.measure(self.method) if each_epoch else {}
            line = {"epoch": self.epoch, "time": time.time(), "train/loss": loss, "train/lr": rate, **measured}
            self.history.append(line)
            if time.monotonic() - saved >= self.settings.checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            self.progress.advance(self.epoch, line)
            self.report()

    def explore(self, beside: list[RunFolder]) -> Landscape:
        """Measure what the study asks for besides scores.

        Args:
            beside: the finished run of plain training, if the study asks for it.
        """
        if self.run.evaluate == Measures():
            return Landscape()
        task, statistics = self.task, self.data.for_statistics("prepare")
        corrupted = partial(task.corrupted_part, batch_size=at_once(task)) if isinstance(task, ImageTask) else None
        examples = Examples(self.data.held_out("test"), self.data.held_out("train"), statistics, corrupted)
        plain = None
        if beside:
            other = make_method(self.run.plain(self.methods), self.methods, self.task.shape)
            other.load_state_dict(load_finished(beside[0]))
            plain = Anchor(dict(other.to(self.device).net.named_parameters()))
        return explore(self.method, self.run.evaluate, examples, plain)

    def execution_details(self) -> dict[str, str]:
        """Say in which of several ways the same was computed."""
        ranks = {"ranks": str(self.group.size)} if self.group.size > 1 else {}
        return {"compile": self.compile, "fuse_up_to": str(self.fuse_up_to), **ranks}

    def write_result(self, parts: list[RunFolder], around: Landscape) -> None:
        """Evaluate, and write predictions, arrays and result."""
        if isinstance(self.task, ImageTask):
            found = evaluate(self.method, self.task, self.counter, self.run.evaluate.calibration_bins)
        else:
            assert isinstance(self.task, TextTask)
            found = evaluate_text(self.method, self.task, self.counter, self.run.evaluate.calibration_bins)
        bad = [name for name, value in {**found.metrics, **around.metrics}.items() if not math.isfinite(value)]
        if bad:
            raise DivergenceError(f"not a number at evaluation: {', '.join(bad)}")
        write(self.folder.predictions, found.save_predictions)
        if around.arrays:
            write(self.folder.arrays, around.save_arrays)
        needed = [read_json(part.result) for part in parts]
        cost = self.counter.cost
        result = make_result(self.run, self.method, found, around, cost, cost - self.inherited, needed, self.device)
        result["provenance"] |= self.execution_details()
        write_json(self.folder.result, result)


def load_finished(part: RunFolder) -> dict[str, Any]:
    """Load the finished state of a needed run.

    Raises:
        NeedError: if it is gone or cannot be read; says how to get it back.
    """
    try:
        return checkpoints.load(part.checkpoint, part.key).method
    except (FileNotFoundError, CheckpointError) as error:
        remedy = f"remove {part.path} and run the study again, which trains that run anew"
        raise NeedError(f"it needs the state of a finished run: {error}; {remedy}") from error


@cache
def warm_up(device: torch.device) -> None:
    """Set a device up, and take a throw-away step: no run's seconds hold what a process does once, at its first."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).to(device)
    torch.backends.cudnn.benchmark = True  # sizes stay the same for a whole run: of its algorithms take the fastest
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    for _ in range(2):
        net(torch.zeros(2, 1, 8, 8, device=device)).sum().backward()
        optimizer.step()
