"""A run that takes moments: a method on a small network, trained on 45 digits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.conformance.attributes import comparable, plain_attributes
from harness.costs.cost import Cost, CostCounter
from harness.parsing.method_expression import MethodSpec
from harness.running.distributed.group import SINGLE_PROCESS
from harness.running.method_setup import set_up_method
from harness.running.run_data import RunData, load_task
from harness.running.settings import Settings
from harness.running.training_loop import train_epoch
from harness.store import checkpoint
from harness.studies.run import DatasetSpec, Run
from methods import Batch, Method, PreparationData, Recipe, prepare_for_prediction
from methods.core.forking import fork_state
from methods.core.random_streams import CPU, all_seeded, stream
from methods.core.weight_averaging import check_averages

NETWORKS = ("lenet5", "wrn-10-1", "cresnet20")
"""Networks on which methods are checked: one of few layers, and two residual ones, with and without pre-activation."""
DATASET = DatasetSpec(name="digits", train_size=45, validation=20)
RECIPE = Recipe(epochs=6, batch_size=8, lr=0.02, weight_decay=1e-3)
"""Six minibatches an epoch, the last of five examples."""


Saved = tuple[dict[str, Any], dict[str, Any]]
"""The states of a method and of its optimizer, as a checkpoint holds them."""


class Snapshot(NamedTuple):
    """What a run was after some epochs.

    Attributes:
        saved: what a checkpoint would hold.
        attributes: the method's plain attributes.
        cost: the cost so far.
    """

    saved: Saved
    attributes: dict[str, Any]
    cost: Cost


@dataclass
class Case:
    """A method on a network, to be checked.

    Attributes:
        spec: the method.
        methods: all methods by name.
        architecture: the network.
        states: states of finished runs that methods start from, by key and epoch; cases may share them.
        recipe: how a network is trained plainly.
    """

    spec: MethodSpec
    methods: Mapping[str, type[Method]]
    architecture: str
    states: dict[tuple[str, int | None], dict[str, Any]] = field(default_factory=dict)
    recipe: Recipe = RECIPE

    def run(self, seed: int = 0) -> Run:
        """Return the spec of the run of a seed."""
        return Run(dataset=DATASET, architecture=self.architecture, method=self.spec, seed=seed, recipe=self.recipe)

    def start(self, seed: int = 0, *, moved: int | None = None) -> "SmallRun":
        """Build the method, and give it the states that it starts from.

        Args:
            seed: of the run.
            moved: the number of the needed state of which all numbers are changed; None for none.
        """
        return start(self.run(seed), self.methods, self.states, moved)

    def trained(self, *, record: bool = False) -> "SmallRun":
        """Train the method from the beginning to the end, and prepare it for prediction.

        Args:
            record: whether to keep what it was after each epoch.
        """
        small = self.start()
        small.finish(record=record)
        return small


class SmallRun:
    """One run in progress, in memory.

    Attributes:
        method: the method.
        optimizer: its optimizer; None if it trains nothing.
        counter: counts its cost.
        epoch: how many epochs are done.
        snapshots: if it was recorded, what it was after 0, 1, … epochs.
    """

    def __init__(self, run: Run, methods: Mapping[str, type[Method]]) -> None:
        """Build the method as a run does."""
        self.run, self.counter, self.epoch = run, CostCounter(), 0
        task = load_task(run.dataset, Path("downloads"), CPU)
        setup = set_up_method(run, Settings(), task, self.counter, SINGLE_PROCESS, methods)
        self.method, self.optimizer = setup.method, setup.optimizer
        self.data = RunData(task, run, SINGLE_PROCESS, lambda: self.epoch)
        self.snapshots: list[Snapshot] = []

    def finish(self, *, record: bool = False) -> None:
        """Train the epochs that are left, and prepare for prediction."""
        for epoch in range(self.epoch, self.method.epochs):
            if record:
                self.snapshots.append(self.snapshot())
            self.train(epoch + 1)
        if record:
            self.snapshots.append(self.snapshot())
        self.prepare()

    def snapshot(self) -> "Snapshot":
        """Return what the run is now."""
        return Snapshot(self.saved(), plain_attributes(self.method), replace(self.counter.cost))

    def train(self, until: int) -> None:
        """Train until a number of epochs is done."""
        watched = self.method.watches
        for epoch in range(self.epoch, until):
            assert self.optimizer is not None
            with self.counter.training(CPU):
                train_epoch(self.method, self.optimizer, self.data.training, epoch)
                if watched:
                    self.method.watch(self.data.held_out(watched), self.data.for_statistics("watch"))
            self.epoch = epoch + 1

    def preparation_data(self) -> PreparationData:
        """Return the data with which the method prepares for prediction."""
        watched = self.method.watches
        return PreparationData(self.data.for_statistics("prepare"), self.data.held_out(watched) if watched else None)

    def prepare(self) -> None:
        """Prepare the method for prediction, as a run does."""
        with self.counter.training(CPU), self.seeded("prepare"):
            prepare_for_prediction(self.method, self.preparation_data())
        x, _ = self.test_batch()
        with self.seeded("predict"):
            check_averages(self.method, x)

    def seeded(self, hook: str) -> Any:
        """Seed the global generators for a hook, as a run does."""
        return all_seeded(stream(self.run.seed, f"global generators in {hook}"))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the members' logits, (K, B, C)."""
        with self.seeded("predict"):
            return self.method.predict(x)

    def test_batch(self) -> Batch:
        """Return the first 13 test examples."""
        x, y = next(iter(self.data.held_out("test")))
        return x[:13], y[:13]

    def minibatches(self) -> list[Batch]:
        """Return the minibatches of one epoch of training."""
        return list(self.data.training(0))

    def saved(self) -> Saved:
        """Return copies of the states of the method and of the optimizer, as a checkpoint holds them."""
        momenta = checkpoint.optimizer_state(self.optimizer) if self.optimizer else {}
        return deepcopy(self.method.state_dict()), deepcopy(momenta)

    def restore(self, saved: Saved, epoch: int) -> None:
        """Load what `saved` returned after some epochs."""
        state, momenta = deepcopy(saved)
        self.method.load_state_dict(state)
        if self.optimizer:
            self.optimizer.state.clear()
            checkpoint.load_optimizer_state(self.optimizer, momenta)
        self.epoch = epoch


def start(
    run: Run,
    methods: Mapping[str, type[Method]],
    states: dict[tuple[str, int | None], dict[str, Any]],
    moved: int | None = None,
) -> SmallRun:
    """Build the method of a run, and give it the states that it starts from.

    Args:
        run: the run's spec.
        methods: all methods by name.
        states: states of other runs by key and epoch; those that are missing are trained and added.
        moved: the number of the needed state of which all numbers are changed; None for none.
    """
    small = SmallRun(run, methods)
    received = []
    for i, need in enumerate(small.method.needs()):
        other = run.needed(need, methods)
        if (other.key, need.epoch) not in states:
            needed = start(other, methods, states)
            needed.train(needed.method.epochs if need.epoch is None else need.epoch)
            if need.epoch is None:
                needed.prepare()
            whole = need.epoch is None
            states[other.key, need.epoch] = needed.saved()[0] if whole else fork_state(needed.method, need.epoch or 0)
        state = deepcopy(states[other.key, need.epoch])
        numbers = [v for v in state.values() if isinstance(v, Tensor) and v.is_floating_point() and i == moved]
        for value in numbers:
            value.mul_(1.5).add_(0.5)
        received.append(state)
    with small.seeded("receive"):
        small.method.receive(received)
    return small


def same(one: Any, other: Any) -> bool:
    """Compare two entries of a state, bit for bit; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    return repr(comparable(one)) == repr(comparable(other))


def first_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the name of the first entry of a state that is another one, or missing, in a second state; or ""."""
    return next((name for name, value in before.items() if not same(value, after.get(name))), "")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside a `with` block: with such small networks, more would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
