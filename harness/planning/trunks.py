"""Trunks: training that several runs of a study share. A trunk is trained once, and the runs are forked from its state.

Two runs are the same computation up to an epoch if everything that determines their state is the same until then:
data, architecture, precision, seed, method, and the learning rate of every epoch. A method counts as plain training
until it departs from that. Trunks are forked from earlier trunks as runs are, so that a study's training is a forest.

The state of a run after some epochs, from which another one starts (`Need.epoch`), is a trunk too.
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
from methods.core.forking import TrainingSource, declared_sharing, training_source
from methods.core.recipe import FrozenModel

FOLDER = "trunks"
"""The folder of the trunks' folders, inside the folder of run folders."""
COMPARED_POSITIONS = (0.0, 0.5, 0.999)
"""Positions in an epoch at which learning rates are compared."""
IGNORED_RECIPE_FIELDS = {"epochs", "lr", "schedule", "reestimate_on"}
"""Fields of a recipe that do not distinguish trunks of a named kind of training.

The first three only act through the learning rates, which are compared. The last one matters after training."""


class TrunkRun(FrozenModel):
    """The first epochs of several runs, which train the same until then; or of one run, whose state another one needs.

    Attributes:
        run: one of these runs; the trunk is trained as the beginning of this run.
        epochs: the number of epochs.
        history: the hash of everything that determines the state after these epochs.
    """

    run: Run
    epochs: Annotated[int, Field(ge=1)]
    history: str

    @property
    def key(self) -> str:
        """The name of the trunk's folder. It is the same whichever of the runs trains the trunk."""
        return f"{FOLDER}/{self.history}"

    def spec(self) -> dict[str, Any]:
        """Return the trunk as JSON values."""
        return {"epochs": self.epochs, "history": self.history, "run": self.run.spec()}

    @property
    def setup(self) -> str:
        """The name of what is trained, without the method."""
        return self.run.setup

    def tags(self) -> dict[str, str]:
        """Return the tags of the trunk's MLflow run."""
        return {**self.run.tags(), "method": "trunk"}

    def __str__(self) -> str:
        """Return the trunk's name for people."""
        return f"trunk of {self.epochs} epochs · {self.setup}"


class StateHashes:
    """Computes a hash of a run's state after each of its epochs, from everything that determines the state.

    Attributes:
        known: the descriptions of the epochs made so far, by the run's spec without its seed.
    """

    def __init__(self) -> None:
        """Start without any descriptions."""
        self.known: dict[str, list[str]] = {}

    def of(self, run: Run, method: Method) -> list[str]:
        """Return the hashes after 1, 2, … epochs. Equal hashes mean equal states.

        Args:
            run: the run's spec.
            method: the run's method, built without memory.
        """
        start = {"dataset": training_data_spec(run), "architecture": run.architecture, "precision": run.precision}
        state = hashlib.sha256(canonical_json({**start, "seed": run.seed}))
        found = []
        for epoch in self.describe_epochs(run, method):
            state.update(epoch.encode())
            found.append(state.hexdigest())
        return found

    def describe_epochs(self, run: Run, method: Method) -> list[str]:
        """Return a description of each epoch: what is trained, and at which rates. It is made once for all seeds."""
        spec = run.spec()
        spec.pop("seed")
        key = canonical_json(spec).decode()
        if key not in self.known:
            sources: dict[TrainingSource, str] = {}
            self.known[key] = [describe_epoch(run, method, epoch, sources) for epoch in range(method.epochs)]
        return self.known[key]


def training_data_spec(run: Run) -> dict[str, Any]:
    """Return the part of a dataset's spec that affects training."""
    return {k: v for k, v in run.dataset.portable().items() if k not in ("ood", "ood_digests", "corruptions")}


def describe_epoch(run: Run, method: Method, epoch: int, sources: dict[TrainingSource, str]) -> str:
    """Return a description of an epoch: what is trained, and at which rates.

    Args:
        run: the run's spec.
        method: the run's method, built without memory.
        epoch: the epoch, counted from 0.
        sources: the descriptions of what the run's earlier epochs trained, to which this one's is added.
    """
    source = training_source(method, epoch)
    if source not in sources:
        sources[source] = describe_source(run, source)
    measured = run.evaluate.each_epoch  # its values are part of the epochs' lines
    watched = [str(run.method), *measured] if measured else []
    rates = [method.lr(epoch + position) for position in COMPARED_POSITIONS]
    rest = canonical_json([rates, method.resets_optimizer(epoch), watched]).decode()
    return f"[{sources[source]},{rest[1:]}"


def describe_source(run: Run, source: TrainingSource) -> str:
    """Return a description of what is trained: the inside of a JSON list of two, the training and its recipe.

    Args:
        run: the run's spec.
        source: what one of the run's epochs trains.
    """
    ignored = IGNORED_RECIPE_FIELDS if source.name and not run.evaluate.each_epoch else set()
    recipe = source.method.recipe.model_dump(mode="json", exclude=ignored)
    what: Any = source.name
    if not source.name:
        spec = spec_within(run.method, source.depth)
        shared = declared_sharing(source.method).prediction
        values = {k: v for k, v in spec.hyperparameters.items() if k not in shared}
        own = spec.model_copy(update={"hyperparameters": values}).model_dump(mode="json")
        what = {"method": own, "kind": type(source.method).__name__}
    return canonical_json([what, recipe]).decode()[1:-1]


def spec_within(spec: MethodSpec, depth: int) -> MethodSpec:
    """Return the spec of the method that is wrapped `depth` times; plain training if none is written there."""
    for _ in range(depth):
        spec = spec.of or MethodSpec(name="sgd")
    return spec


def canonical_json(value: Any) -> bytes:
    """Return JSON values as bytes that are the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def find_trunks(histories: Mapping[str, list[str]]) -> dict[str, list[int]]:
    """Find the states at which runs part that trained the same until then, or at which such runs end.

    Args:
        histories: the hashes of each run's state after 1, 2, … epochs, by the run's key.

    Returns:
        For each run, the numbers of epochs after which it reaches such states, the latest first.
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
