"""A study whose methods take the values that tuning chose."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import data
from harness.build import imagine_method
from harness.expression import MethodSpec, parse
from harness.journal import Metric
from harness.places import Errors
from harness.run import Run
from harness.search import trained
from harness.search_space import levels, with_values
from harness.study import Study
from harness.tuned_file import Place, TunedEntry, raise_any, read_file


def apply(study: Study, path: Path) -> Study:
    """Give a study whose methods have the values that a file chose; those without an entry run as written.

    A method that trains nothing itself combines runs of the method inside it with the values chosen for that one. The
    study's name says that it is tuned, so that its runs are tracked apart from those of the study as written.

    Raises:
        StudyError: for an entry that fits nothing in the study, or not its methods of today, with its place.
    """
    file, errors = read_file(path)
    chosen: dict[Place, MethodSpec] = {}
    for i, entry in enumerate(file.tuned):
        if entry.place in chosen:
            errors.add(("tuned", i), f"{' · '.join(entry.place)}: there is an entry already")
        elif spec := check_entry(study, entry, ("tuned", i), errors):
            chosen[entry.place] = spec
    raise_any(errors)
    used: dict[Place, Place] = {}
    tuned: dict[Place, MethodSpec] = {}
    first = [cell for cell in study.cells() if cell.run.seed == study.file.seeds[0]]
    for cell in first:
        run, _, _ = trained(cell.run, str(cell.run.method), study.methods)
        place = (run.dataset.label, run.architecture, str(run.method))
        if place in chosen:
            own = (*place[:2], str(cell.run.method))
            used[own] = place
            tuned[own] = combining(cell.run.method, run.method, chosen[place])
    for i, entry in enumerate(file.tuned):
        if entry.place not in used.values():
            errors.add(("tuned", i), f"{' · '.join(entry.place)}: nothing in the study is trained so")
    raise_any(errors)
    entries = {entry.place: entry for entry in file.tuned}
    said = caption(study, {own: entries[place] for own, place in used.items()})
    return replace(study, name=f"{study.name} · tuned", tuned=tuned, caption=said)


def combining(method: MethodSpec, old: MethodSpec, new: MethodSpec) -> MethodSpec:
    """Give a method with another one in the place of one inside it, or of itself."""
    if method == old or not method.of:
        return new
    return method.model_copy(update={"of": combining(method.of, old, new)})


def check_entry(study: Study, entry: TunedEntry, place: tuple[str | int, ...], errors: Errors) -> MethodSpec | None:
    """Give the method that an entry chose, or report what is wrong with the entry."""
    spec, wrong = parse(entry.method, study.methods)
    if not spec:
        errors.add((*place, "method"), "; ".join(wrong))
        return None
    today = {level.spec.name: level.spec.version for level in levels(spec, entry.method, study.methods)}
    if today != entry.versions:
        errors.add(
            (*place, "versions"), f"{entry.method} was tuned at {entry.versions}, it is {today} today: tune it again"
        )
        return None
    try:
        chosen = with_values(spec, entry.values, study.methods)
    except ValueError as error:
        errors.add((*place, "values"), str(error))
        return None
    for dataset in study.file.datasets:
        if dataset.label == entry.dataset and entry.architecture in study.file.architectures:
            recipe = study.recipe(dataset, entry.architecture)
            run = Run(dataset=dataset, architecture=entry.architecture, method=chosen, seed=0, recipe=recipe)
            try:
                imagine_method(run, study.methods, data.shape(dataset.name, **dataset.options()))
            except ValueError as error:
                errors.add((*place, "values"), f"{chosen}: {error}")
                return None
    return chosen


def caption(study: Study, used: Mapping[Place, TunedEntry]) -> str:
    """Say, below a leaderboard, which values were tuned and with how much.

    Args:
        study: as it is written.
        used: (dataset, architecture, method) → the entry that it takes its values from.
    """
    tuned: dict[str, list[str]] = {}
    left: list[str] = []
    cells = [(dataset.label, a) for dataset in study.file.datasets for a in study.file.architectures]
    for method in study.file.methods:
        found = {cell: used.get((*cell, str(method.method))) for cell in cells}
        missing = [" · ".join(cell) for cell, entry in found.items() if not entry]
        if len(missing) == len(cells):
            left.append(method.label)
            continue
        but = f" (not on {', '.join(missing)})" if missing else ""
        for how in dict.fromkeys(budget_of(entry) for entry in found.values() if entry):
            tuned.setdefault(how, []).append(f"{method.label}{but}")
    parts = [f"Tuned on validation data ({how}): {', '.join(labels)}." for how, labels in tuned.items()]
    return " ".join([*parts, *([f"Not tuned: {', '.join(left)}."] if left else [])])


def budget_of(entry: TunedEntry) -> str:
    """Say with how much a method was tuned."""
    return (
        f"{describe(entry.metric)}, at most {entry.trials} trials and {entry.trainings:g} plain trainings a method, "
        f"seed {entry.seed}"
    )


def describe(metric: Metric) -> str:
    """Write a metric as tables do."""
    return {"nll": "NLL", "accuracy": "accuracy"}[metric]
