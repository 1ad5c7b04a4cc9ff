"""A study whose methods take the values that tuning chose."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import data
from harness.parsing.method_expression import MethodSpec, parse
from harness.parsing.yaml_errors import Errors
from harness.studies.build_method import imagine_method
from harness.studies.run import Run
from harness.studies.study import Study
from harness.tuning.search import trained
from harness.tuning.search_space import as_written, levels, with_values
from harness.tuning.study_searches import seeds_of, tuning_run
from harness.tuning.trial_journal import Metric
from harness.tuning.tuned_values_file import Place, TunedEntry, fingerprint, raise_any, read_tuned_values


def apply_tuned_values(study: Study, path: Path) -> Study:
    """Give a study whose methods have the values that a file chose; those without an entry run as written.

    A method that trains nothing itself combines runs of the method inside it with the values chosen for that one. The
    study's name says that it is tuned, so that its runs are tracked apart from those of the study as written.

    Raises:
        StudyError: for an entry that fits nothing in the study, or not its methods, data and recipe of today, or that
            was chosen with a seed of the study's, with its place.
    """
    file, errors = read_tuned_values(path)
    places = find_places(study)
    runs = dict(places.values())
    seeds = seeds_of(study)
    chosen: dict[Place, MethodSpec] = {}
    for i, entry in enumerate(file.tuned):
        if entry.place in chosen:
            errors.add(("tuned", i), f"{' · '.join(entry.place)}: there is an entry already")
        elif spec := check_entry(study, entry, runs, seeds, ("tuned", i), errors):
            chosen[entry.place] = spec
    raise_any(errors)
    written = {place.name: place.entry.method for place in study.places()}
    used = {own: place for own, (place, _) in places.items() if place in chosen}
    tuned = {own: combining(written[own], runs[place].method, chosen[place]) for own, place in used.items()}
    entries = {entry.place: entry for entry in file.tuned}
    said = caption(study, path, {own: entries[place] for own, place in used.items()})
    return replace(study, name=f"{study.name} · tuned", tuned=tuned, caption=said)


def find_places(study: Study) -> dict[Place, tuple[Place, Run]]:
    """Say what is trained for each method of a study.

    Returns:
        (Dataset, architecture, label) → what an entry for it is found by, and the run that is tuned for it.
    """
    found = {}
    for where in study.places():
        run, text, _ = trained(tuning_run(where, seed=0), where.entry.written, study.methods)
        dataset, architecture, _ = where.name
        found[where.name] = (dataset, architecture, as_written(run.method, text, study.methods)), run
    return found


def combining(method: MethodSpec, old: MethodSpec, new: MethodSpec) -> MethodSpec:
    """Give a method with another one in the place of one inside it, or of itself."""
    if method == old or not method.of:
        return new
    return method.model_copy(update={"of": combining(method.of, old, new)})


def check_entry(
    study: Study,
    entry: TunedEntry,
    runs: Mapping[Place, Run],
    seeds: Sequence[int],
    place: tuple[str | int, ...],
    errors: Errors,
) -> MethodSpec | None:
    """Give the method that an entry chose, or report what is wrong with the entry.

    Args:
        study: as it is written.
        entry: of the file.
        runs: what is trained in the study, of any seed.
        seeds: of the study's runs.
        place: of the entry in the file.
        errors: where to report.
    """
    spec, wrong = parse(entry.method, study.methods)
    if not spec:
        errors.add((*place, "method"), "; ".join(wrong))
        return None
    parts = levels(spec, entry.method, study.methods)
    today = {level.spec.name: level.spec.version for level in parts}
    if today != entry.versions:
        reason = f"{entry.method} was tuned at {entry.versions}, it is {today} today: tune it again"
        errors.add((*place, "versions"), reason)
        return None
    if entry.place not in runs:
        errors.add(place, f"{' · '.join(entry.place)}: nothing in the study is trained so")
        return None
    before = len(errors.found)
    check_origin(entry, runs[entry.place], seeds, place, errors)
    pinned = {f"{level.prefix}{name}" for level in parts for name in level.written}
    if both := sorted(entry.values.keys() & pinned):
        errors.add((*place, "values"), f"{entry.method} has {', '.join(both)} written out already")
    try:
        chosen = with_values(spec, entry.values, study.methods)
    except ValueError as error:
        errors.add((*place, "values"), str(error))
        return None
    run = runs[entry.place].model_copy(update={"method": chosen})
    try:
        imagine_method(run, study.methods, data.shape(run.dataset.name, **run.dataset.options()))
    except ValueError as error:
        errors.add((*place, "values"), f"{chosen}: {error}")
    return chosen if len(errors.found) == before else None


def check_origin(
    entry: TunedEntry, run: Run, seeds: Sequence[int], place: tuple[str | int, ...], errors: Errors
) -> None:
    """Report an entry that was chosen for other training than the study's, or on a run that the study reports."""
    if entry.seed in seeds:
        listed = ", ".join(map(str, seeds))
        errors.add(
            (*place, "seed"),
            f"{entry.method} was tuned with seed {entry.seed}, one of the study's own ({listed}): its values were "
            "chosen on runs that the study reports; tune it again with another one, or remove the entry",
        )
    if fingerprint(run.model_copy(update={"seed": entry.seed})) != entry.recipe:
        errors.add(
            (*place, "recipe"),
            f"{entry.method} was tuned with other training: the data, the recipe, the precision or the method's "
            "code have changed since; tune it again, or remove the entry",
        )


def caption(study: Study, path: Path, used: Mapping[Place, TunedEntry]) -> str:
    """Say, below a leaderboard, which hyperparameters were tuned, with how much, and where the chosen values stand.

    Args:
        study: as it is written.
        path: of the file of tuned values.
        used: (dataset, architecture, label) → the entry that it takes its values from.
    """
    tuned: dict[str, list[str]] = {}
    left: list[str] = []
    cells_of: dict[str, list[tuple[str, str]]] = {}
    for dataset, architecture, label in (place.name for place in study.places()):
        cells_of.setdefault(label, []).append((dataset, architecture))
    for label, cells in cells_of.items():
        found = {cell: used.get((*cell, label)) for cell in cells}
        missing = [" · ".join(cell) for cell, entry in found.items() if not entry]
        if len(missing) == len(cells):
            left.append(label)
            continue
        but = f" (not on {', '.join(missing)})" if missing else ""
        for how in dict.fromkeys(budget_of(entry) for entry in found.values() if entry):
            here = [entry for entry in found.values() if entry and budget_of(entry) == how]
            names = dict.fromkeys(name for entry in here for name in entry.values)
            tuned.setdefault(how, []).append(f"{label}{but}: {', '.join(names)}")
    parts = [f"Tuned on validation data ({how}): {'; '.join(labels)}." for how, labels in tuned.items()]
    parts += [f"Values: {path}."] if tuned else []
    return " ".join([*parts, *([f"Not tuned: {', '.join(left)}."] if left else [])])


def budget_of(entry: TunedEntry) -> str:
    """Say with how much a method was tuned."""
    return (
        f"{describe(entry.metric)}, at most {entry.trials} trials and {entry.trainings:g} plain trainings a method, "
        f"the study's own values in any case, seed {entry.seed}"
    )


def describe(metric: Metric) -> str:
    """Write a metric as tables do."""
    return {"nll": "NLL", "accuracy": "accuracy"}[metric]
