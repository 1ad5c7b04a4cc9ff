"""From a study to its plan: which runs it takes, in which order, and what they share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import data
from data.tasks.batches import batch_bounds
from harness.parsing.yaml_errors import StudyError
from harness.planning.planned_runs import FigureSummary, Planned, PlannedRuns, StudySummary
from harness.planning.trunks import FOLDER, StateHashes, TrunkRun, find_trunks
from harness.quadratic.quadratic_study import QuadraticStudy
from harness.studies.build_method import MetaMethods, count_anchors
from harness.studies.check_study import MOST_RUNS
from harness.studies.run import Run
from harness.studies.study import Study
from methods import LatePhase, Method
from methods.core.wrapper import methods_within


class Plan(PlannedRuns):
    """All runs of a study by key. A run stands after those that it needs."""

    def __init__(self, study: Study | QuadraticStudy, *, share: bool = False) -> None:
        """Expand the study's cells and what they need.

        Args:
            study: a checked study.
            share: whether runs with the same beginning share it, as a trunk that is trained once.
        """
        super().__init__(summarize(study))
        self.methods = study.methods
        self.histories = StateHashes()
        self.warnings: dict[tuple[int, str], str] = {}
        if isinstance(study, QuadraticStudy):
            self.runs = {run.key: Planned(run, (run.label,), "cell", (), run.iterations) for run in study.runs}
            return
        self.meta_methods = study.meta_methods or MetaMethods(study.methods)
        for cell in study.cells():
            self.add(cell.run, cell.label, "cell")
        rates = self.describe_rates()
        self.study = replace(self.study, caption=" ".join(filter(None, [self.study.caption, rates])))
        self.find_contained()
        if share:
            self.add_trunks()

    def add(self, run: Run, label: str, role: Literal["cell", "component"]) -> str:
        """Add a run and the runs that it needs, and return its key."""
        known = self.runs.get(run.key)
        if known:
            if role == "cell":
                labels = (label,) if known.role == "component" else (*known.labels, label)
                self.runs[run.key] = replace(known, labels=labels, role=role)
            return run.key
        if len(self.runs) >= MOST_RUNS:
            raise StudyError(f"the study takes more than {MOST_RUNS:,} runs, with those that its runs need; divide it")
        method = self.meta_method(run)
        with users_code(run):
            needs, reference_runs = self.add_needs(run), self.add_reference_runs(run, method)
        self.runs[run.key] = Planned(
            run, (label,), role, needs, method.epochs, self.warning_of(run, method), reference_runs
        )
        return run.key

    def add_needs(self, run: Run) -> tuple[str, ...]:
        """Add the finished runs and the trunks from whose states a run starts, and return their keys."""
        keys = []
        for need in self.meta_methods.needs(run, shape(run)):
            needed = run.needed(need, self.methods)
            if need.epoch is None:
                keys.append(self.add(needed, str(needed.method), "component"))
            else:
                keys.append(self.add_state(needed, need.epoch, wanted_by=run))
        return tuple(keys)

    def add_state(self, run: Run, epochs: int, *, wanted_by: Run) -> str:
        """Add the state of a run after some of its epochs, from which another run starts: a trunk. Return its key.

        Raises:
            StudyError: if the run has no such epoch.
        """
        method = self.meta_method(run)
        if not 1 <= epochs <= method.epochs:
            others = f", or from 1 to {method.epochs}" if method.epochs else ""
            raise StudyError(
                f"{wanted_by} needs the state of {run.method} (seed {run.seed}) after {epochs} epochs, but that trains "
                f"{method.epochs}: let the epoch of this Need be None (the finished state){others}"
            )
        trunk = TrunkRun(run=run, epochs=epochs, history=self.history(run)[epochs - 1])
        if trunk.key not in self.runs:
            needs = self.add_needs(run)
            self.runs[trunk.key] = Planned(trunk, (str(trunk),), "trunk", needs, epochs)
        return trunk.key

    def describe_rates(self) -> str:
        """Say from which epoch on methods have learning rates of their own in place of the recipe's schedule."""
        found: dict[int, list[str]] = {}
        for run, label in ((planned.run, planned.label) for planned in self.runs.values() if planned.role == "cell"):
            assert isinstance(run, Run)
            method = self.meta_method(run)
            with users_code(run):
                rates = ((method.lr(epoch), run.recipe.learning_rate(epoch)) for epoch in range(method.epochs))
                first = next(
                    (epoch for epoch, pair in enumerate(rates) if not math.isclose(*pair, abs_tol=1e-300)), None
                )
            if first is not None and label not in found.setdefault(first, []):
                found[first].append(label)
        listed = "; ".join(f"from epoch {first} on {', '.join(labels)}" for first, labels in sorted(found.items()))
        return f"Learning rates of their own in place of the recipe's: {listed}." if listed else ""

    def find_contained(self) -> None:
        """Find the states that runs need beside other runs or states which pass through them."""
        for key, planned in self.runs.items():
            needed = self.with_needs(key) - {key}
            states = [each for each in needed if isinstance(self.runs[each].run, TrunkRun)]
            passed = {state for other in needed for state in self.states_on_the_way(other)} if states else set()
            passed.intersection_update(states)
            if contained := tuple(state for state in self.runs if state in passed) if passed else ():
                self.runs[key] = replace(planned, contained=contained)

    def states_on_the_way(self, key: str) -> list[str]:
        """Return the keys that the states before the end of a run, or of a needed state, have as trunks."""
        run, epochs = self.runs[key].run, self.runs[key].epochs
        whole = run.run if isinstance(run, TrunkRun) else run
        assert isinstance(whole, Run)
        states = self.history(whole)[: epochs - isinstance(run, TrunkRun)]
        return [f"{FOLDER}/{state}" for state in states]

    def add_trunks(self) -> None:
        """Add the trunks that runs share, and make each run, and each state that a run needs, start from its latest."""
        trained = {
            key: run
            for key, planned in self.runs.items()
            if planned.epochs
            and isinstance(run := planned.run.run if isinstance(planned.run, TrunkRun) else planned.run, Run)
        }
        histories = {key: self.history(run)[: self.runs[key].epochs] for key, run in trained.items()}
        trunk_epochs = find_trunks(histories)
        runs, self.runs = self.runs, {}
        for key, planned in runs.items():
            trunks: list[Planned] = []  # the latest first
            for epochs in reversed(trunk_epochs.get(key, [])):
                made = TrunkRun(run=trained[key], epochs=epochs, history=histories[key][epochs - 1])
                if made.key == key:  # a state that a run needs: no trunk of itself
                    break
                known = self.runs.get(made.key) or on_top(
                    Planned(made, (str(made),), "trunk", planned.needs, epochs), trunks
                )
                self.runs[made.key] = known
                trunks.insert(0, known)
            self.runs.setdefault(key, on_top(planned, trunks))

    def history(self, run: Run) -> list[str]:
        """Return the hashes of a run's state after each of its epochs."""
        with users_code(run):
            return self.histories.of(run, self.meta_method(run))

    def add_reference_runs(self, run: Run, method: Method) -> tuple[str, ...]:
        """Add the run of plain training where it is the third anchor of the run's plane."""
        wanted = run.evaluate.plane and run.evaluate.plane.third
        if not wanted or count_anchors(method) not in (2, None):
            return ()
        plain = run.plain(self.methods)
        return (self.add(plain, str(plain.method), "component"),)

    def warning_of(self, run: Run, method: Method) -> str:
        """Return the warning of a run, computed once for all seeds."""
        key = id(method), run.dataset.label  # the methods are kept, so that no two have the same id
        if key not in self.warnings:
            self.warnings[key] = warning(run, method)
        return self.warnings[key]

    def meta_method(self, run: Run) -> Method:
        """Build a run's method without memory, once for all seeds."""
        return self.meta_methods.build(run, shape(run))


@contextmanager
def users_code(run: Run) -> Iterator[None]:
    """Name the run whose method raises an error inside a `with` block.

    Raises:
        StudyError: in the place of any other error.
    """
    try:
        yield
    except StudyError:
        raise
    except (Exception, SystemExit) as error:  # a user's own method can raise anything
        raise StudyError(f"{run} cannot be planned: {type(error).__name__}: {error}") from error


def on_top(planned: Planned, trunks: Sequence[Planned]) -> Planned:
    """Let a run go on from trunks, given the latest first."""
    last = trunks[0].epochs if trunks else 0
    return replace(planned, trunks=tuple(trunk.key for trunk in trunks), trunk_epochs=last)


def summarize(study: Study | QuadraticStudy) -> StudySummary:
    """Return what commands need to know of a study besides its runs."""
    if isinstance(study, QuadraticStudy):
        return StudySummary(study.name, "quadratic", banner=study.banner)
    groups = [group.name for group in study.cell_groups()]
    figures = tuple(
        FigureSummary(figure.plot, figure.name, figure.options, tuple(groups[i] for i in shown))
        for figure, shown in zip(study.file.figures, study.figure_groups, strict=True)
    )
    frame = study.published_values()
    published = None if frame is None else {"rows": frame.to_dict("records"), "attrs": frame.attrs}
    return StudySummary(
        study.name,
        "grid",
        tuple(study.plugins),
        study.file.description,
        study.caption,
        study.banner,
        figures,
        published,
    )


def shape(run: Run) -> data.DatasetShape:
    """Give the shape of a run's data without loading it."""
    return data.dataset_shape(run.dataset.name, **run.dataset.options())


def warning(run: Run, method: Method) -> str:
    """Warn of cycles that no epoch is long enough for."""
    for part in methods_within(method):  # a wrapper's inner method has an epoch of its own
        part.epoch = max(part.epochs - 1, 0)
    batches = method.data_orders() * len(batch_bounds(shape(run).train, run.recipe.batch_size))
    cycle = method.batches_per_update()
    carried = any(isinstance(part, LatePhase) and part.leftover == "carry" for part in methods_within(method))
    if cycle <= batches or carried:
        return ""
    return (
        f"{run.method} on {run.dataset.label}: an epoch has {batches} minibatches, fewer than the {cycle} of a "
        "cycle: none is ever full, and every epoch ends with a shorter one"
    )
