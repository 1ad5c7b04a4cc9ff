"""Applies a file of tuned values to a study."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import data
from harness.parsing.method_expression import MethodSpec, parse_method
from harness.parsing.yaml_errors import Errors
from harness.studies.build_method import build_meta_method
from harness.studies.run import Run
from harness.studies.study import Study
from harness.tuning.search import find_trained_run
from harness.tuning.search_space import nested_methods, normalize_expression, with_values
from harness.tuning.study_searches import seeds_of, tuning_run
from harness.tuning.trial_journal import Metric
from harness.tuning.tuned_values_file import CellName, EntryKey, TunedEntry, fingerprint, raise_any, read_tuned_values


def apply_tuned_values(study: Study, path: Path) -> Study:
    """Return a study whose methods have the values of a file. Methods without an entry stay as written.

    A method that trains nothing itself combines runs of the method inside it, with the values chosen for that method.
    The name of the returned study says that it is tuned, so its runs are tracked separately from those of the study as
    written.

    Raises:
        StudyError: for an entry that matches nothing in the study, that was tuned with other methods, data or recipes,
            or that was chosen with a seed of the study. The message has the location of every error in the file.
    """
    file, errors = read_tuned_values(path)
    keys = find_entry_keys(study)
    runs = dict(keys.values())
    seeds = seeds_of(study)
    chosen: dict[EntryKey, MethodSpec] = {}
    for i, entry in enumerate(file.tuned):
        if entry.key in chosen:
            errors.add(("tuned", i), f"{' · '.join(entry.key)}: there is an entry already")
        elif spec := check_entry(study, entry, runs, seeds, ("tuned", i), errors):
            chosen[entry.key] = spec
    raise_any(errors)
    written = {group.name: group.entry.method for group in study.cell_groups()}
    used = {name: key for name, (key, _) in keys.items() if key in chosen}
    tuned = {name: replace_inner_method(written[name], runs[key].method, chosen[key]) for name, key in used.items()}
    entries = {entry.key: entry for entry in file.tuned}
    caption = describe_tuning(study, path, {name: entries[key] for name, key in used.items()})
    return replace(study, name=f"{study.name} · tuned", tuned=tuned, caption=caption)


def find_entry_keys(study: Study) -> dict[CellName, tuple[EntryKey, Run]]:
    """Find the key of the entry for each method of a study.

    Returns:
        (Dataset, architecture, label) → the key of its entry, and the run that is tuned for it.
    """
    found = {}
    for group in study.cell_groups():
        run, expression, _ = find_trained_run(tuning_run(group, seed=0), group.entry.written, study.methods)
        dataset, architecture, _ = group.name
        found[group.name] = (dataset, architecture, normalize_expression(run.method, expression, study.methods)), run
    return found


def replace_inner_method(method: MethodSpec, old: MethodSpec, new: MethodSpec) -> MethodSpec:
    """Replace a method by a new one, where it is inside another method or the method itself."""
    if method == old or not method.of:
        return new
    return method.model_copy(update={"of": replace_inner_method(method.of, old, new)})


def check_entry(
    study: Study,
    entry: TunedEntry,
    runs: Mapping[EntryKey, Run],
    seeds: Sequence[int],
    location: tuple[str | int, ...],
    errors: Errors,
) -> MethodSpec | None:
    """Return the method with the values of an entry, or report what is wrong with the entry.

    Args:
        study: as written.
        entry: of the file.
        runs: the tuned run for each entry key, of any seed.
        seeds: of the study's runs.
        location: of the entry in the file.
        errors: receives what is wrong.
    """
    spec, wrong = parse_method(entry.method, study.methods)
    if not spec:
        errors.add((*location, "method"), "; ".join(wrong))
        return None
    nested = nested_methods(spec, entry.method, study.methods)
    today = {each.spec.name: each.spec.version for each in nested}
    if today != entry.versions:
        reason = f"{entry.method} was tuned at versions {entry.versions}; they are now {today}: tune it again"
        errors.add((*location, "versions"), reason)
        return None
    if entry.key not in runs:
        errors.add(location, f"{' · '.join(entry.key)}: nothing in the study is trained in this way")
        return None
    before = len(errors.messages)
    check_origin(entry, runs[entry.key], seeds, location, errors)
    written = {f"{each.prefix}{name}" for each in nested for name in each.written}
    if both := sorted(entry.values.keys() & written):
        errors.add((*location, "values"), f"{entry.method} already has {', '.join(both)} written out")
    try:
        chosen = with_values(spec, entry.values, study.methods)
    except ValueError as error:
        errors.add((*location, "values"), str(error))
        return None
    run = runs[entry.key].model_copy(update={"method": chosen})
    try:
        build_meta_method(run, study.methods, data.dataset_shape(run.dataset.name, **run.dataset.options()))
    except ValueError as error:
        errors.add((*location, "values"), f"{chosen}: {error}")
    return chosen if len(errors.messages) == before else None


def check_origin(
    entry: TunedEntry, run: Run, seeds: Sequence[int], location: tuple[str | int, ...], errors: Errors
) -> None:
    """Report an entry that was chosen for other training than the study's, or with a seed of the study's own."""
    if entry.seed in seeds:
        listed = ", ".join(map(str, seeds))
        errors.add(
            (*location, "seed"),
            f"{entry.method} was tuned with seed {entry.seed}, one of the study's own ({listed}): its values were "
            "chosen on runs that the study reports; tune it again with another seed, or remove the entry",
        )
    if fingerprint(run.model_copy(update={"seed": entry.seed})) != entry.recipe:
        errors.add(
            (*location, "recipe"),
            f"{entry.method} was tuned with other training: the data, the recipe, the precision or the method's "
            "code have changed since; tune it again, or remove the entry",
        )


def describe_tuning(study: Study, path: Path, used: Mapping[CellName, TunedEntry]) -> str:
    """Return the caption of a tuned leaderboard: the tuned hyperparameters, the budget of tuning, and the file.

    Args:
        study: as written.
        path: of the file of tuned values.
        used: (dataset, architecture, label) → the entry of its values.
    """
    tuned: dict[str, list[str]] = {}
    untuned: list[str] = []
    cells_of: dict[str, list[tuple[str, str]]] = {}
    for dataset, architecture, label in (group.name for group in study.cell_groups()):
        cells_of.setdefault(label, []).append((dataset, architecture))
    for label, cells in cells_of.items():
        found = {cell: used.get((*cell, label)) for cell in cells}
        missing = [" · ".join(cell) for cell, entry in found.items() if not entry]
        if len(missing) == len(cells):
            untuned.append(label)
            continue
        but = f" (not on {', '.join(missing)})" if missing else ""
        for how in dict.fromkeys(describe_budget(entry) for entry in found.values() if entry):
            here = [entry for entry in found.values() if entry and describe_budget(entry) == how]
            names = dict.fromkeys(name for entry in here for name in entry.values)
            tuned.setdefault(how, []).append(f"{label}{but}: {', '.join(names)}")
    parts = [f"Tuned on validation data ({how}): {'; '.join(labels)}." for how, labels in tuned.items()]
    parts += [f"Values: {path}."] if tuned else []
    return " ".join([*parts, *([f"Not tuned: {', '.join(untuned)}."] if untuned else [])])


def describe_budget(entry: TunedEntry) -> str:
    """Describe the metric, the budget and the seed with which a method was tuned."""
    return (
        f"{metric_title(entry.metric)}, at most {entry.trials} trials and {entry.trainings:g} plain trainings a "
        f"method, the study's own values in any case, seed {entry.seed}"
    )


def metric_title(metric: Metric) -> str:
    """Return the name of a metric in tables."""
    return {"nll": "NLL", "accuracy": "accuracy"}[metric]
