"""The plan of a study: all runs that it takes, their order, and which of them are left."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import data
from harness.parsing.yaml_errors import StudyError
from harness.planning.trunks import StateHashes, Trunk, find_trunks
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
        run: the run's spec.
        labels: the study's names for its method; several if the study lists it several times.
        role: "cell" for a cell of the study; "component" for a run that only exists because a cell needs it; "trunk"
            for training that several runs share; "trial" for a trial of tuning.
        needs: keys of the finished runs that it starts from.
        epochs: the epochs of its training, with those that a trunk trains for it.
        warning: a warning about a setting that is probably a mistake; "" for none.
        beside: keys of other finished runs that its evaluation uses. They are no part of its cost.
        trunks: keys of the trunks that it can be forked from, the latest first.
        first: the epochs of the latest of these trunks: so many it need not train itself.
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
        """The key of the run: the name of its folder, and the tag of its MLflow run."""
        return self.run.key

    @property
    def label(self) -> str:
        """The study's first name for the run's method."""
        return self.labels[0]

    @property
    def after(self) -> tuple[str, ...]:
        """Keys of the runs and trunks that must be finished before this run starts."""
        return (*self.needs, *self.beside, *self.trunks[:1])


class Plan:
    """All runs of a study.

    Attributes:
        study: the study.
        runs: the planned runs by key. Each comes after the runs that it needs.
    """

    def __init__(self, study: Study | QuadraticStudy, *, share: bool = False) -> None:
        """Plan the study's cells and the runs that they need.

        Args:
            study: a valid study.
            share: whether to train what several runs have in common once, as trunks from which they are forked.
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
        """Add a run and the runs that it needs; return its key.

        Raises:
            StudyError: if the run needs a state that no run keeps.
        """
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
        """Find the training that runs share, add it as trunks, and fork the runs from these."""
        state_hashes = StateHashes()
        of_runs = {
            key: state_hashes.of(planned.run, self.imagine(planned.run))
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
        """Add the run of plain training if it is the third anchor of the run's loss plane; return its key, if so."""
        wanted = run.evaluate.plane and run.evaluate.plane.third
        if not wanted or count_anchors(method) not in (2, None):
            return ()
        plain = run.plain(self.study.methods)
        return (self.add(plain, str(plain.method), "component"),)

    def imagine(self, run: Run) -> Method:
        """Return a run's method, built without memory for its parameters, once for all seeds."""
        return self.imagined(run, shape(run))

    @property
    def alone(self) -> dict[str, Planned]:
        """The runs without the trunks, by key."""
        return {key: planned for key, planned in self.runs.items() if planned.role != "trunk"}

    def epochs_as_written(self, key: str) -> int:
        """Return the epochs of a run and of everything it needs, if nothing were shared with other runs."""
        planned = self.runs[key]
        return planned.epochs + sum(self.epochs_as_written(need) for need in planned.needs)

    def finished(self, root: Path) -> set[str]:
        """Return the keys of the finished runs, and of the trunks that need not be trained.

        Args:
            root: the folder of run folders.
        """
        return self.runs.keys() - self.left(root).keys()

    def left(self, root: Path) -> dict[str, int]:
        """Return for each unfinished run, and for each trunk to be trained, the epochs that it trains itself.

        A trunk is trained if at least two unfinished runs are forked from it. A single run trains its epochs itself.

        Args:
            root: the folder of run folders.
        """
        left = {key for key in self.alone if not RunFolder(root, key).finished}
        waiting = Counter(
            self.runs[key].trunks[0]
            for key in left
            if self.runs[key].trunks and not RunFolder(root, key).checkpoint.exists()
        )
        there = set()
        for key, planned in reversed(self.runs.items()):  # later trunks come after those they are forked from
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
        """Return the epochs of the latest trunk in `trunks` that a run can be forked from; 0 if there is none."""
        return next((self.runs[key].epochs for key in planned.trunks if key in trunks), 0)


def on_top(planned: Planned, trunks: Sequence[Planned]) -> Planned:
    """Return a planned run that is forked from trunks, given the latest first."""
    first = trunks[0].epochs if trunks else 0
    return replace(planned, trunks=tuple(trunk.key for trunk in trunks), first=first)


def shape(run: Run) -> data.Shape:
    """Return the shape of a run's data without loading the data."""
    return data.shape(run.dataset.name, **run.dataset.options())


def warning(run: Run, method: Method) -> str:
    """Return a warning if a cycle of the method needs more minibatches than an epoch has; else ""."""
    for part in methods_within(method):  # a wrapper's inner method counts its epochs itself
        part.epoch = max(part.epochs - 1, 0)
    batches = method.data_orders() * -(-shape(run).train // run.recipe.batch_size)
    cycle = method.batches_per_update()
    if cycle <= batches:
        return ""
    return (
        f"{run.method} on {run.dataset.label}: an epoch has {batches} minibatches, fewer than the {cycle} of a "
        "cycle: none is ever full, and `leftover` decides whether shared weights step"
    )
