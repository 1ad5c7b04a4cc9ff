"""The state of a run's training, saved to checkpoints and restored from them or from a trunk."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from harness.costs.cost import Cost, CostCounter
from harness.costs.peak_memory import PeakMemory
from harness.store import checkpoint as checkpoints
from harness.store.checkpoint import Checkpoint, CheckpointError
from harness.store.outcome import DivergenceError
from harness.store.run_folder import RunFolder, write_json_lines
from methods import Method
from methods.core.forking import fork, fork_state

IN_TRUNK = " (in the trunk that it goes on from)"
"""What the message of a run says whose trunk diverged, or a trunk of the trunk."""


class RunState:
    """The state of a run's training: everything that a checkpoint holds.

    Attributes:
        method: the method that is trained.
        optimizer: its optimizer; None if the method trains nothing.
        epoch: how many epochs are done.
        history: the lines of metrics.jsonl, one per epoch.
        counter: counts the run's cost.
        inherited: the part of the cost that a trunk has spent already.
    """

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer | None,
        counter: CostCounter,
        memory: PeakMemory,
        folder: RunFolder,
        *,
        is_trunk: bool,
        is_writer: bool,
    ) -> None:
        """Begin with no epoch done.

        Args:
            method: the method that is trained.
            optimizer: its optimizer; None if the method trains nothing.
            counter: counts the run's cost.
            memory: measures the run's peak memory.
            folder: the folder of the run, or of the trunk.
            is_trunk: whether a trunk is trained. Its checkpoints hold only what its forks have in common.
            is_writer: whether this process writes metrics.jsonl when a state is restored; of several ranks, one does.
        """
        self.method, self.optimizer, self.counter, self.memory = method, optimizer, counter, memory
        self.folder, self.is_trunk, self.is_writer = folder, is_trunk, is_writer
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.inherited = Cost()

    def save(self, *, prepared: bool = False) -> None:
        """Write a checkpoint, then metrics.jsonl with the epochs that it holds.

        Args:
            prepared: whether the method was prepared for prediction, so that this is the finished state.
        """
        cost = self.counter.cost
        cost.peak_memory_bytes = max(cost.peak_memory_bytes, self.memory.bytes())
        Checkpoint(
            key=self.folder.key,
            epoch=self.epoch,
            prepared=prepared,
            trunk=self.is_trunk,
            method=fork_state(self.method, self.epoch) if self.is_trunk else self.method.state_dict(),
            optimizer={} if prepared or not self.optimizer else checkpoints.optimizer_state(self.optimizer),
            cost=cost,
            history=self.history,
            inherited=self.inherited,
        ).save(self.folder.checkpoint)
        write_json_lines(self.folder.metrics, self.history)

    def resume(self, name: str) -> bool:
        """Restore the run's own checkpoint, if it exists; return whether it is the finished state.

        A checkpoint that cannot be read, or does not fit the method, is renamed to checkpoint.corrupt.pt, and the run
        starts again.

        Args:
            name: the run's name, for messages.
        """
        path = self.folder.checkpoint
        if not path.exists():
            return False
        try:
            saved = self.load(self.folder)
        except CheckpointError as error:
            aside = path.with_name("checkpoint.corrupt.pt")
            if aside.is_dir():  # of which nobody knows what it holds
                aside = path.with_name("checkpoint.corrupt-file.pt")
            path.replace(aside)
            print(f"{error}; put aside as {aside.name}, {name} starts anew", file=sys.stderr)
            return False
        self.inherited = saved.inherited
        self.restore(saved)
        return saved.prepared

    def fork_from(self, trunks: Sequence[RunFolder], name: str) -> None:
        """Restore the state of the latest trunk that is available. Without one, the run trains all epochs itself.

        Args:
            trunks: folders of the trunks that the run can be forked from, the latest first.
            name: the run's name, for messages.

        Raises:
            DivergenceError: if a trunk diverged, because this run would diverge, too.
        """
        for folder in trunks:
            failure = folder.read_failure()
            if failure.get("state") == "diverged":
                raise DivergenceError(f"{failure['reason'].removesuffix(IN_TRUNK)}{IN_TRUNK}")
            try:
                if folder.finished:
                    saved = self.load(folder)
                    self.restore(saved)
                    self.inherited = saved.cost
                    return
            except FileNotFoundError:
                continue  # its state was removed to save disk space
            except CheckpointError as error:
                folder.checkpoint.unlink(missing_ok=True)  # so that the trunk is trained again if that pays
                print(f"{error}; {name} trains these epochs itself", file=sys.stderr)

    def load(self, folder: RunFolder) -> Checkpoint:
        """Load the checkpoint of the run, or of a trunk, which is sure to fit the method.

        Raises:
            CheckpointError: if it cannot be read, or does not fit.
        """
        saved = checkpoints.load(folder.checkpoint, folder.key)
        if not saved.trunk <= saved.epoch <= self.method.epochs:  # a trunk has an epoch at least
            raise CheckpointError(f"{folder.checkpoint}: of epoch {saved.epoch}, of {self.method.epochs}")
        state = fork_state(self.method, saved.epoch) if saved.trunk else self.method.state_dict()
        checkpoints.check_fits(saved, folder.checkpoint, state, self.optimizer)
        return saved

    def restore(self, saved: Checkpoint) -> None:
        """Load a checkpoint of the run, or the state of a trunk, which has only a part of the method's state."""
        if saved.trunk:
            fork(self.method, saved.method, saved.epoch)
        else:
            self.method.load_state_dict(saved.method)
        if self.optimizer:
            checkpoints.load_optimizer_state(self.optimizer, saved.optimizer)
        self.epoch, self.history, self.counter.cost = saved.epoch, saved.history, replace(saved.cost)
        if self.is_writer:
            write_json_lines(self.folder.metrics, self.history)
