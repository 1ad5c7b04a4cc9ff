"""The plan of a study: which runs it takes, in which order, and which of them are done."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import data
from harness.parsing.yaml_errors import StudyError
from harness.planning.trunks import Histories, Trunk, find_trunks
from harness.quadratic.problem import QuadraticRun
from harness.quadratic.quadratic_study import QuadraticStudy
from harness.store.run_folder import RunFolder
from harness.studies.build_method import Imagined, count_anchors, imagine_method
from harness.studies.run import Run
from harness.studies.study import Study
from methods import Method
from methods.core.wrapper import methods_within


@dataclass(frozen=True)
class Planned:
    """One run of a plan.

    Attributes:
        run: its spec.
        labels: what the study calls its method; more than one name if it stands there more than once.
        role: a "cell" of the study, a "component" that only exists because a cell needs it, a "trunk", the state that
            several of them go on from, or a "trial" of tuning.
        needs: keys of the finished runs that it starts from.
        epochs: that it trains itself, or of a trunk all.
        warning: what its author may not have meant.
        beside: keys of the finished runs that its evaluation looks at too; they are no part of its cost.
        trunks: keys of the trunks that it can go on from, the latest first.
        first: how many of its epochs the latest of these has trained.
    """

    run: Run | QuadraticRun | Trunk
    labels: tuple[str, ...]
    role: Literal["cell", "component", "trunk", "trial"]
    needs: tuple[str, ...]
    epochs: int
    warning: str = ""
    beside: tuple[str, ...] = ()
    trunks: tuple[str, ...] = ()
    first: int = 0

    @property
    def key(self) -> str:
        """The name of its folder, and of its MLflow run."""
        return self.run.key

    @property
    def label(self) -> str:
        """What the study calls its method first."""
        return self.labels[0]

    @property
    def after(self) -> tuple[str, ...]:
        """Keys of the runs that must be finished first."""
        return (*self.needs, *self.beside, *self.trunks[:1])


class Plan:
    """All runs of a study by key, needed ones before those that need them."""

    def __init__(self, study: Study | QuadraticStudy, *, share: bool = False) -> None:
        """Expand the study's cells and what they need.

        Args:
            study: a checked study.
            share: train what runs have in common once, as trunks of which they are forks.
        """
        self.study = study
        self.runs: dict[str, Planned] = {}
        if isinstance(study, QuadraticStudy):
            self.runs = {run.key: Planned(run, (run.label,), "cell", (), run.iterations) for run in study.runs}
            return
        self.imagined = study.imagined or Imagined(study.methods)
        for cell in study.cells():
            self.add(cell.run, cell.label, "cell")
        if share:
            self.add_trunks()

    def add(self, run: Run, label: str, role: Literal["cell", "component"]) -> str:
        """Add a run and the runs it needs; give its key."""
        known = self.runs.get(run.key)
        if known:
            if role == "cell":
                labels = (label,) if known.role == "component" else (*known.labels, label)
                self.runs[run.key] = replace(known, labels=labels, role=role)
            return run.key
        method = self.imagine(run)
        if method.needs() and method.seed != run.seed:
            method = imagine_method(run, self.study.methods, shape(run))
        for need in method.needs():
            if need.epoch is not None:
                raise StudyError(f"{run.method} needs a state after {need.epoch} epochs, but only final ones are kept")
        needs = tuple(
            self.add(needed := run.needed(need, self.study.methods), str(needed.method), "component")
            for need in method.needs()
        )
        beside = self.add_beside(run, method)
        self.runs[run.key] = Planned(run, (label,), role, needs, method.epochs, warning(run, method), beside)
        return run.key

    def add_trunks(self) -> None:
        """Find what runs have in common, and let them go on from there."""
        histories = Histories()
        of_runs = {
            key: histories.of(planned.run, self.imagine(planned.run))
            for key, planned in self.runs.items()
            if isinstance(planned.run, Run) and planned.epochs
        }
        ages = find_trunks(of_runs)
        runs, self.runs = self.runs, {}
        for key, planned in runs.items():
            trunks: list[Planned] = []  # the latest first
            for epochs in reversed(ages.get(key, [])):
                assert isinstance(planned.run, Run)
                made = Trunk(run=planned.run, epochs=epochs, history=of_runs[key][epochs - 1])
                known = self.runs.get(made.key) or on_top(
                    Planned(made, (str(made),), "trunk", planned.needs, epochs), trunks
                )
                self.runs[made.key] = known
                trunks.insert(0, known)
            self.runs[key] = on_top(planned, trunks)

    def add_beside(self, run: Run, method: Method) -> tuple[str, ...]:
        """Add the run of plain training where it is the third anchor of the run's plane."""
        wanted = run.evaluate.plane and run.evaluate.plane.third
        if not wanted or count_anchors(method) not in (2, None):
            return ()
        plain = run.plain(self.study.methods)
        return (self.add(plain, str(plain.method), "component"),)

    def imagine(self, run: Run) -> Method:
        """Build a run's method without memory, once for all seeds."""
        return self.imagined(run, shape(run))

    @property
    def alone(self) -> dict[str, Planned]:
        """The runs that have results of their own: all but trunks."""
        return {key: planned for key, planned in self.runs.items() if planned.role != "trunk"}

    def epochs_as_written(self, key: str) -> int:
        """Count the epochs of a run if everything it needs were trained for it alone."""
        planned = self.runs[key]
        return planned.epochs + sum(self.epochs_as_written(need) for need in planned.needs)

    def finished(self, root: Path) -> set[str]:
        """List the runs whose result is there, and the trunks that need not be trained."""
        return self.runs.keys() - self.left(root).keys()

    def left(self, root: Path) -> dict[str, int]:
        """Give for each run that is left, trunks too, how many epochs it trains itself.

        A trunk is trained if two runs or more that are left go on from it; a single one trains its epochs itself.
        """
        left = {key for key in self.alone if not RunFolder(root, key).finished}
        waiting = Counter(
            self.runs[key].trunks[0]
            for key in left
            if self.runs[key].trunks and not RunFolder(root, key).checkpoint.exists()
        )
        there = set()
        for key, planned in reversed(self.runs.items()):  # later trunks come after those that they go on from
            if planned.role != "trunk":
                continue
            folder = RunFolder(root, key)
            if folder.finished and folder.checkpoint.exists():
                there.add(key)
            elif waiting[key]:
                left |= {key} if waiting[key] > 1 else set()
                waiting.update(planned.trunks[:1])
        return {
            key: planned.epochs - self.begins_at(planned, left | there)
            for key, planned in self.runs.items()
            if key in left
        }

    def begins_at(self, planned: Planned, trunks: Set[str]) -> int:
        """Say after how many epochs a run goes on from the latest of its trunks that there will be."""
        return next((self.runs[key].epochs for key in planned.trunks if key in trunks), 0)


def on_top(planned: Planned, trunks: Sequence[Planned]) -> Planned:
    """Let a run go on from trunks, given the latest first."""
    first = trunks[0].epochs if trunks else 0
    return replace(planned, trunks=tuple(trunk.key for trunk in trunks), first=first)


def shape(run: Run) -> data.DatasetShape:
    """Give the shape of a run's data without loading it."""
    return data.dataset_shape(run.dataset.name, **run.dataset.options())


def warning(run: Run, method: Method) -> str:
    """Warn of cycles that no epoch is long enough for."""
    for part in methods_within(method):  # a wrapper's inner method has an epoch of its own
        part.epoch = max(part.epochs - 1, 0)
    batches = method.data_orders() * -(-shape(run).train // run.recipe.batch_size)
    cycle = method.batches_per_update()
    if cycle <= batches:
        return ""
    return (
        f"{run.method} on {run.dataset.label}: an epoch has {batches} minibatches, fewer than the {cycle} of a "
        "cycle: none is ever full, and `leftover` decides whether shared weights step"
    )
