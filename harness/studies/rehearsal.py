"""Rehearsals: a study at a small scale, to see that all of it runs before it is paid for. Its figures mean nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.parsing.yaml_errors import Errors, Lines, StudyError
from harness.quadratic.problem import EVERY
from harness.quadratic.quadratic_study import QuadraticStudy, problems
from harness.studies.build_method import Imagined
from harness.studies.check_study import check_grid
from harness.studies.grid import Grid
from harness.studies.scale import EPOCHS, IN_THEIR_PLACE, TINY, WIDTH, Scale, scaled_grids
from harness.studies.study import Study

SUFFIX = " · rehearsal"
"""At the end of a rehearsal's name: its runs are tracked apart from the study's."""


def rehearse(study: Study, scale: Scale) -> Study:
    """Give a study at a small scale.

    Raises:
        StudyError: if a method does not fit into it, naming it, or if nothing of the study is larger.
    """
    for epochs in EPOCHS if scale == TINY else (scale.epochs,):
        small = scale.model_copy(update={"epochs": epochs})
        grids = scaled_grids(study, small)
        errors, imagined = Errors(Path(f"--scale {small}"), Lines("")), Imagined(study.methods)
        for grid in grids:
            check_grid(grid, imagined, errors)
        if not errors.found:
            break
    if errors.found:
        reasons = "\n".join(f"  {reason}" for reason in errors.reasons)
        raise StudyError(f"study {study.name} does not fit into --scale {small}:\n{reasons}")
    changing = effective(study, small, grids)
    if changing == Scale():
        raise nothing_changes(study.name, small)
    banner = describe(study, changing, grids)
    return replace(study, name=study.name + SUFFIX, grids=grids, banner=banner, imagined=imagined)


def effective(study: Study, scale: Scale, grids: tuple[Grid, ...]) -> Scale:
    """Keep of a scale what makes something of a study smaller.

    Args:
        study: as it is written.
        scale: of the rehearsal.
        grids: of the study at that scale.
    """
    asked = scale.model_dump(exclude_none=True)
    idle = [name for name in asked if scaled_grids(study, scale.model_copy(update={name: None})) == grids]
    return scale.model_copy(update=dict.fromkeys(idle))


def nothing_changes(study: str, scale: Scale) -> StudyError:
    """Say that a study at a scale is the study itself."""
    remedy = "take smaller values, or leave it out"
    return StudyError(f"--scale {scale} changes nothing of study {study}: nothing of it is larger; {remedy}")


def describe(study: Study, scale: Scale, grids: tuple[Grid, ...]) -> str:
    """Say what a rehearsal is.

    Args:
        study: as it is written.
        scale: what of it changes something.
        grids: of the rehearsal.
    """
    pairs = list(zip(study.places(), (place for grid in grids for place in grid.places()), strict=True))
    same = dict.fromkeys(large.dataset.label for large, small in pairs if large.dataset == small.dataset)
    changed = [(a.architecture, b.architecture) for a, b in pairs if a.architecture != b.architecture]
    narrower = [bool(WIDTH.fullmatch(name)) for name, _ in changed]
    shallower = [b.startswith(IN_THEIR_PLACE) and not a.startswith(IN_THEIR_PLACE) for a, b in changed]
    parts = [
        f"at most {counted(scale.epochs, 'epoch')}" if scale.epochs else "",
        f"at most {counted(scale.subset, 'training example')}" if scale.subset else "",
        f"all of {' and '.join(same)}" if scale.subset and same else "",
        f"networks {scale.width:g} times as wide" if scale.width and any(narrower) else "",
        f"{IN_THEIR_PLACE}s in place of larger residual networks" if any(shallower) else "",
        f"at most {counted(scale.members, 'member')}" if scale.members else "",
        f"at most {counted(scale.seeds, 'seed')}" if scale.seeds else "",
        "synthetic data" if scale.data else "",
        "fewer points around networks" if any(a.grid.evaluate != b.grid.evaluate for a, b in pairs) else "",
    ]
    return f"Rehearsal, not a result: {', '.join(part for part in parts if part)}."


def counted(count: int, what: str) -> str:
    """Write a number of something."""
    return f"{count} {what}{'s' if count > 1 else ''}"


def rehearse_quadratic(study: QuadraticStudy, scale: Scale) -> QuadraticStudy:
    """Give a study of the noisy quadratic problem in fewer dimensions, which relax as much sooner.

    Raises:
        StudyError: if that is too few, or if nothing of the study is larger.
    """
    factor = scale.width or 1.0
    runs = []
    for run in study.runs:
        n = min(run.n, max(2, round(run.n * factor)))
        average = max(2 * EVERY, 2 * EVERY * round(run.average * n / run.n / (2 * EVERY)))
        changes: dict[str, Any] = {"n": n, "average": average, "iterations": max(average, run.iterations * n // run.n)}
        if n == run.n:
            changes = {}
        if scale.seeds:
            changes["seeds"] = run.seeds[: max(2, scale.seeds)]  # a standard error needs two
        runs.append(run.model_copy(update=changes))
    if tuple(runs) == tuple(study.runs):
        raise nothing_changes(study.name, scale)
    wrong = [f"  {run}: {problem}" for i, run in enumerate(runs) for problem in problems(run, runs[:i])]
    if wrong:
        raise StudyError("\n".join([f"study {study.name} does not fit into --scale {scale}:", *wrong]))
    counts = f"{runs[0].n} dimensions, {runs[0].iterations:,} iterations, {len(runs[0].seeds)} seeds"
    banner = f"Rehearsal, not a result: {counts}."
    return replace(study, name=study.name + SUFFIX, runs=tuple(runs), banner=banner)
