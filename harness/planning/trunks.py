"""Which training the runs of a study have in common: each state that they share is trained once and forked from.

Two runs are the same computation up to an epoch if all that decides it is the same until then: data, architecture,
precision, seed, the method (plain training, until it departs from that), and the learning rate of every epoch. Such a
state is a trunk. Trunks fork from earlier trunks as runs do, so that a study's training is a forest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Annotated, Any

from pydantic import Field

from harness.parsing.method_expression import MethodSpec
from harness.studies.run import Run
from methods import Method
from methods.core.forking import declared_sharing, training_source
from methods.core.recipe import FrozenModel

FOLDER = "trunks"
"""Where their folders are, inside of the folder of run folders."""
PLACES = (0.0, 0.5, 0.999)
"""Where in an epoch learning rates are compared."""
UNSEEN = {"epochs", "lr", "schedule", "reestimate_on"}
"""Of a recipe: what a trunk with a name knows only by the rates that come of it, and what matters after training."""


class Trunk(FrozenModel):
    """The state after some epochs that several runs go on from.

    Attributes:
        run: one of the runs that share it, by which it is trained.
        epochs: how many.
        history: the hash of all that decides the state.
    """

    run: Run
    epochs: Annotated[int, Field(ge=1)]
    history: str

    @property
    def key(self) -> str:
        """The name of its folder: the same whichever of the runs trains it."""
        return f"{FOLDER}/{self.history}"

    def spec(self) -> dict[str, Any]:
        """Give the trunk as JSON values."""
        return {"epochs": self.epochs, "history": self.history, "run": self.run.spec()}

    @property
    def setup(self) -> str:
        """Name what is trained, but for the method."""
        return self.run.setup

    def tags(self) -> dict[str, str]:
        """Describe the trunk to the tracking store."""
        return {**self.run.tags(), "method": "trunk"}

    def __str__(self) -> str:
        """Name the trunk for people."""
        return f"trunk of {self.epochs} epochs · {self.setup}"


class Histories:
    """What decides the state of a run after each of its epochs, as hashes."""

    def __init__(self) -> None:
        """Know none."""
        self.known: dict[str, list[str]] = {}

    def of(self, run: Run, method: Method) -> list[str]:
        """Give the hash after 1, 2, … epochs; equal hashes are equal states."""
        place = {"dataset": data_trained_on(run), "architecture": run.architecture, "precision": run.precision}
        state = hashlib.sha256(canonical({**place, "seed": run.seed}))
        found = []
        for step in self.steps(run, method):
            state.update(step.encode())
            found.append(state.hexdigest())
        return found

    def steps(self, run: Run, method: Method) -> list[str]:
        """Say for each epoch what is trained in it, and at which rates; once for all seeds."""
        spec = run.spec()
        spec.pop("seed")
        key = canonical(spec).decode()
        if key not in self.known:
            measured = run.evaluate.each_epoch  # which stands in the lines of the epochs
            self.known[key] = [step(run, method, epoch, tuple(measured)) for epoch in range(method.epochs)]
        return self.known[key]


def data_trained_on(run: Run) -> dict[str, Any]:
    """Give of a dataset's spec what training sees of it."""
    return {k: v for k, v in run.dataset.portable().items() if k not in ("ood", "ood_digests", "corruptions")}


def step(run: Run, method: Method, epoch: int, measured: tuple[str, ...]) -> str:
    """Say what is trained in an epoch, and at which rates.

    Args:
        run: whose training it is.
        method: the run's method, on the meta device.
        epoch: counted from 0.
        measured: what is measured after each epoch.
    """
    source = training_source(method, epoch)
    recipe = source.method.recipe
    kept = recipe.model_dump(mode="json", exclude=UNSEEN if source.name and not measured else set())
    what: Any = source.name
    if not source.name:
        spec = spec_within(run.method, source.depth)
        shared = declared_sharing(source.method).prediction
        values = {k: v for k, v in spec.hyperparameters.items() if k not in shared}
        own = spec.model_copy(update={"hyperparameters": values}).model_dump(mode="json")
        what = {"method": own, "kind": type(source.method).__name__}
    watched = [str(run.method), *measured] if measured else []
    rates = [method.lr(epoch + place) for place in PLACES]
    return canonical([what, kept, rates, method.recipe.resets_optimizer(epoch), watched]).decode()


def spec_within(spec: MethodSpec, depth: int) -> MethodSpec:
    """Give the spec of the method that lies `depth` steps inside; plain training where none is written."""
    for _ in range(depth):
        spec = spec.of or MethodSpec(name="sgd")
    return spec


def canonical(value: Any) -> bytes:
    """Write JSON values in one way."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def find_trunks(histories: Mapping[str, list[str]]) -> dict[str, list[int]]:
    """Find all states that two runs or more share and go on from in different ways, or end with.

    Args:
        histories: for each run the hashes after 1, 2, … epochs.

    Returns:
        For each run, after how many epochs such states are reached, the latest first.
    """
    found: dict[str, list[int]] = {key: [] for key in histories}

    def divide(keys: Iterable[str], epochs: int) -> None:
        groups: dict[str, list[str]] = {}
        for key in keys:
            if len(histories[key]) > epochs:
                groups.setdefault(histories[key][epochs], []).append(key)
        for group in groups.values():
            if len(group) == 1:
                continue
            ahead = zip(*(histories[key][epochs:] for key in group), strict=False)
            together = epochs + sum(1 for _ in takewhile(lambda states: len(set(states)) == 1, ahead))
            for key in group:
                found[key].insert(0, together)
            divide(group, together)

    divide(histories, 0)
    return found
