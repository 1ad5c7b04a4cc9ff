"""Rehearsals: a study at a small scale, which shows cheaply that everything runs. Its results have no meaning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.parsing.yaml_errors import Errors, StudyError, YamlLines
from harness.quadratic.problem import MEASURE_EVERY
from harness.quadratic.quadratic_study import QuadraticStudy, setting_errors
from harness.studies.build_method import MetaMethods
from harness.studies.check_study import check_grid
from harness.studies.grid import Grid
from harness.studies.scale import REPLACEMENT_FAMILY, TINY, TINY_EPOCHS, WIDTH_PATTERN, Scale, scale_grids
from harness.studies.study import Study

SUFFIX = " · rehearsal"
"""Suffix of a rehearsal's name. Its runs are tracked separately from the study's."""


def rehearse(study: Study, scale: Scale) -> Study:
    """Return a study at a small scale.

    Raises:
        StudyError: if a method does not work at the scale, or if the scale changes nothing.
    """
    for epochs in TINY_EPOCHS if scale == TINY else (scale.epochs,):
        small = scale.model_copy(update={"epochs": epochs})
        grids = scale_grids(study, small)
        errors, meta_methods = Errors(Path(f"--scale {small}"), YamlLines("")), MetaMethods(study.methods)
        for grid in grids:
            check_grid(grid, meta_methods, errors, rehearsal=True)
        if not errors.messages:
            break
    if errors.messages:
        reasons = "\n".join(f"  {reason}" for reason in errors.reasons)
        raise StudyError(f"study {study.name} does not fit into --scale {small}:\n{reasons}")
    changing = effective_scale(study, small, grids)
    if changing == Scale():
        raise no_change_error(study.name, small)
    banner = describe_rehearsal(study, changing, grids)
    return replace(study, name=study.name + SUFFIX, grids=grids, banner=banner, meta_methods=meta_methods)


def effective_scale(study: Study, scale: Scale, grids: tuple[Grid, ...]) -> Scale:
    """Return a scale without the limits that change nothing of a study.

    Args:
        study: the original study.
        scale: scale of the rehearsal.
        grids: the study's grids at that scale.
    """
    asked = scale.model_dump(exclude_none=True)
    idle = [name for name in asked if scale_grids(study, scale.model_copy(update={name: None})) == grids]
    return scale.model_copy(update=dict.fromkeys(idle))


def no_change_error(study: str, scale: Scale) -> StudyError:
    """Return the error for a scale that changes nothing of a study."""
    remedy = "take smaller values, or leave it out"
    return StudyError(f"--scale {scale} changes nothing of study {study}: nothing of it is larger; {remedy}")


def describe_rehearsal(study: Study, scale: Scale, grids: tuple[Grid, ...]) -> str:
    """Write the banner of a rehearsal, which lists what is scaled.

    Args:
        study: the original study.
        scale: the effective scale.
        grids: grids of the rehearsal.
    """
    pairs = list(zip(study.cell_groups(), (group for grid in grids for group in grid.cell_groups()), strict=True))
    same = dict.fromkeys(large.dataset.label for large, small in pairs if large.dataset == small.dataset)
    changed = [(a.architecture, b.architecture) for a, b in pairs if a.architecture != b.architecture]
    narrower = [bool(WIDTH_PATTERN.fullmatch(name)) for name, _ in changed]
    shallower = [b.startswith(REPLACEMENT_FAMILY) and not a.startswith(REPLACEMENT_FAMILY) for a, b in changed]
    parts = [
        f"at most {pluralize(scale.epochs, 'epoch')}" if scale.epochs else "",
        f"at most {pluralize(scale.subset, 'training example')}" if scale.subset else "",
        f"all of {' and '.join(same)}" if scale.subset and same else "",
        f"networks {scale.width:g} times as wide" if scale.width and any(narrower) else "",
        f"{REPLACEMENT_FAMILY}s in place of larger residual networks" if any(shallower) else "",
        f"at most {pluralize(scale.members, 'member')}" if scale.members else "",
        f"at most {pluralize(scale.seeds, 'seed')}" if scale.seeds else "",
        "synthetic data" if scale.data else "",
        "fewer points around networks" if any(a.grid.evaluate != b.grid.evaluate for a, b in pairs) else "",
    ]
    return f"Rehearsal, not a result: {', '.join(part for part in parts if part)}."


def pluralize(count: int, what: str) -> str:
    """Write a count with its noun, in the plural if needed."""
    return f"{count} {what}{'s' if count > 1 else ''}"


def rehearse_quadratic(study: QuadraticStudy, scale: Scale) -> QuadraticStudy:
    """Return a study of the noisy quadratic problem with fewer dimensions, and proportionally fewer iterations.

    Raises:
        StudyError: if a setting does not work with so few dimensions, or if the scale changes nothing.
    """
    factor = scale.width or 1.0
    runs = []
    for run in study.runs:
        n = min(run.n, max(2, round(run.n * factor)))
        average = max(2 * MEASURE_EVERY, 2 * MEASURE_EVERY * round(run.average * n / run.n / (2 * MEASURE_EVERY)))
        changes: dict[str, Any] = {"n": n, "average": average, "iterations": max(average, run.iterations * n // run.n)}
        if n == run.n:
            changes = {}
        if scale.seeds:
            changes["seeds"] = run.seeds[: max(2, scale.seeds)]  # a standard error needs two
        runs.append(run.model_copy(update=changes))
    if tuple(runs) == tuple(study.runs):
        raise no_change_error(study.name, scale)
    wrong = [f"  {run}: {problem}" for i, run in enumerate(runs) for problem in setting_errors(run, runs[:i])]
    if wrong:
        raise StudyError("\n".join([f"study {study.name} does not fit into --scale {scale}:", *wrong]))
    counts = f"{runs[0].n} dimensions, {runs[0].iterations:,} iterations, {len(runs[0].seeds)} seeds"
    banner = f"Rehearsal, not a result: {counts}."
    return replace(study, name=study.name + SUFFIX, runs=tuple(runs), banner=banner)
