"""Studies of the noisy quadratic problem: validates the YAML file, simulates each setting and writes its result."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, ValidationError

from harness.parsing.yaml_errors import Errors
from harness.quadratic.learners import simulate
from harness.quadratic.problem import (
    Array,
    QuadraticRun,
    Setting,
    Simulation,
    effective_curvatures,
    late_phase_loss,
    steady_loss,
)
from harness.store.environment import describe_environment
from harness.store.progress import ProgressFile
from harness.store.run_folder import RunFolder, write_json
from methods import Method
from methods.core.recipe import CheckedModel

STUDY_KEY = "noisy_quadratic"
"""The top-level key of such a study, which a study that trains networks does not have."""
MAX_INITIAL_SHARE = 0.01
"""Largest share of the loss that may be due to the initial weights when averaging begins."""
PAPER_ITERATIONS = 20_000_000
"""The paper's number of iterations, for which the loss of late-phase weights is predicted in addition."""
PREDICTION_POINTS = 21
"""Number of iterations, within the averaged ones, at which the loss is predicted."""
PLACEHOLDERS: Mapping[str, Any] = {"K": [1, 2], "seeds": [0, 1], "iterations": 10**12, "average": 20}
"""Placeholders for wrong parts of a study, so that the rest can be checked. They cause no errors themselves."""


class QuadraticGrid(Simulation):
    """The simulation of several settings."""

    settings: Annotated[tuple[Setting, ...], Field(min_length=1)]


class QuadraticFile(CheckedModel):
    """The keys of the YAML file of such a study."""

    description: str = ""
    noisy_quadratic: QuadraticGrid


@dataclass(frozen=True)
class QuadraticStudy:
    """A valid study of the noisy quadratic problem.

    Attributes:
        name: name of the study.
        runs: one run a setting.
        methods: empty; it exists for studies that train networks.
        plugins: empty, likewise.
        banner: warning that must be shown with all results of the study; "" for none.
    """

    name: str
    runs: tuple[QuadraticRun, ...]
    methods: Mapping[str, type[Method]] = field(default_factory=dict)
    plugins: tuple[Path, ...] = ()
    banner: str = ""

    def cells(self) -> tuple[QuadraticRun, ...]:
        """Return the runs, one a setting."""
        return self.runs


def check_quadratic(name: str, raw: dict[str, Any], errors: Errors, plugins: Sequence[Path]) -> QuadraticStudy:
    """Check a study of the noisy quadratic problem as a whole.

    Args:
        name: name of the study.
        raw: values of the YAML file.
        errors: collects the errors.
        plugins: plugin files; any is an error, because no methods are trained.

    Raises:
        StudyError: listing all errors.
    """
    errors.add_repeated_keys()
    if plugins:
        errors.add((), f"--plugin {plugins[0]}: a study of the noisy quadratic problem trains no methods")
    file = validate_file(raw, errors)
    runs: list[QuadraticRun] = []
    if file:
        common = file.noisy_quadratic.model_dump(exclude={"settings"})
        runs = [QuadraticRun(**common, **setting.model_dump()) for setting in file.noisy_quadratic.settings]
        written = (i for i in count() if (STUDY_KEY, "settings", i) not in errors.removed)  # indices in the file
        for i, (index, run) in enumerate(zip(written, runs, strict=False)):
            for problem in setting_errors(run, runs[:i]):
                errors.add((STUDY_KEY, "settings", index), problem)
    errors.raise_if_any()
    return QuadraticStudy(name, tuple(runs))


def validate_file(raw: dict[str, Any], errors: Errors) -> QuadraticFile | None:
    """Validate a study. Wrong values are reported and replaced by placeholders, so that the rest is checked too."""
    for _ in range(3):
        try:
            return QuadraticFile.model_validate(raw)
        except ValidationError as error:
            rest = errors.add_validation_errors(raw, error)
            grid = {**PLACEHOLDERS, **(rest[STUDY_KEY] if isinstance(rest.get(STUDY_KEY), dict) else {})}
            if (STUDY_KEY, "n") in errors.removed:
                grid = {"n": 2, **grid}
            settings = [{"eta": 1, "B": 1, **item} for item in grid.get("settings") or [{}] if isinstance(item, dict)]
            raw = {**rest, STUDY_KEY: {**grid, "settings": settings}}
    return None


def setting_errors(run: QuadraticRun, before: Sequence[QuadraticRun]) -> list[str]:
    """Return the errors of a setting beyond the form of its values.

    Args:
        run: the setting.
        before: the settings listed before it.
    """
    found = ["this setting is there twice"] if run in before else []
    try:
        lowest = float(steady_loss(run.curvature, run.eta, run.B, max(run.K)))
        steady_loss(effective_curvatures(run, 1.0), run.eta, run.B, 1)
    except ValueError as error:
        return [*found, f"eta: {error}"]
    # After t iterations from distance 1, all in the slowest direction, the initial weights still contribute
    # h / 2 · exp(−2 η h t) to the loss.
    slowest = float(run.curvature.min())
    needed = math.ceil(max(0.0, math.log(slowest / 2 / (MAX_INITIAL_SHARE * lowest))) / (2 * run.eta * slowest))
    if run.iterations - run.average < needed:
        found.append(
            f"the initial weights matter after iterations - average = {run.iterations - run.average}: the slowest "
            f"direction relaxes in {1 / (run.eta * slowest):,.0f} iterations, and {needed:,} are needed"
        )
    return found


def simulate_run(run: QuadraticRun, folder: RunFolder, report: Callable[[], None]) -> None:
    """Simulate a setting and write its result.

    Args:
        run: the setting.
        folder: run folder, claimed by this process. Its progress.json is updated.
        report: called from time to time.

    Raises:
        DivergenceError: if a loss is not finite.
    """
    began = time.perf_counter()
    progress = ProgressFile(folder.progress, "cpu", unit="iteration")
    progress.begin_training(0, run.iterations)

    def advance(done: int) -> None:
        progress.complete_epoch(done)
        report()

    losses = simulate(run, advance)
    result = {
        "key": run.key,
        "run": str(run),
        "spec": run.spec(),
        "metrics": log_log_slopes(run, losses),
        "members": {
            name: dict(zip(run.K, curve.tolist(), strict=True)) for name, curve in loss_curves(run, losses).items()
        },
        "losses": {name: loss.tolist() for name, loss in losses.items()},
        "cost": {},
        "spent": {},
        "timing": {"spent/simulation_seconds": time.perf_counter() - began, "finished": time.time()},
        "provenance": {**describe_environment(torch.device("cpu")), "numpy": np.__version__},
    }
    write_json(folder.result, result)
    folder.progress.unlink(missing_ok=True)


def loss_curves(run: QuadraticRun, losses: Mapping[str, Array]) -> dict[str, Array]:
    """Return losses against K, each (len(K),): means over seeds, their standard errors, and theoretical predictions.

    "…_change" is the relative difference of the loss between the second and the first half of the averaged iterations.
    The loss is steady if the change is within a few standard errors of 0.

    Args:
        run: the setting.
        losses: result of `simulate`.
    """
    found: dict[str, Array] = {}
    for name, halves in losses.items():
        loss = halves.mean(0)  # (S, len(K))
        change = (halves[1] - halves[0]) / loss.mean(0)
        found |= {name: loss.mean(0), f"{name}_se": standard_error(loss)}
        found |= {f"{name}_change": change.mean(0), f"{name}_change_se": standard_error(change)}
    found["full_closed_form"] = steady_loss(run.curvature, run.eta, run.B, np.array(run.K))
    averaged = np.linspace(run.iterations - run.average, run.iterations, PREDICTION_POINTS)
    found["late_phase_prediction"] = np.array([late_phase_loss(run, K, averaged).mean() for K in run.K])
    long = [max(run.iterations, PAPER_ITERATIONS)]
    found["late_phase_prediction_2e7"] = np.array([late_phase_loss(run, K, long)[0] for K in run.K])
    return found


def log_log_slopes(run: QuadraticRun, losses: Mapping[str, Array]) -> dict[str, float]:
    """Fit log loss against log K.

    Returns:
        The slope of each curve, and for simulated curves its standard error over seeds.
    """
    log_K = np.log(run.K)
    found: dict[str, float] = {}
    for name, curve in loss_curves(run, losses).items():
        if not name.endswith(("_se", "_change")):
            found[f"slope/{name}"] = float(np.polyfit(log_K, np.log(curve), 1)[0])
    for name, halves in losses.items():
        each = np.polyfit(log_K, np.log(halves.mean(0)).T, 1)[0]  # (S,)
        found[f"slope/{name}_se"] = float(standard_error(each))
    return found


def standard_error(values: Array) -> Array:
    """Return the standard error of the mean over the first axis, the seeds."""
    return np.asarray(values.std(axis=0, ddof=1) / math.sqrt(len(values)))
