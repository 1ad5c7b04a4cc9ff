"""The searches of a study: one for each dataset, architecture and method that can be tuned."""

from collections.abc import Sequence
from dataclasses import dataclass

import data
from harness.parsing.yaml_errors import StudyError
from harness.planning.plan import Plan
from harness.studies.check_study import has_validation_data
from harness.studies.extra_measurements import ExtraMeasurements
from harness.studies.grid import CellGroup, Entry
from harness.studies.run import DatasetSpec, Run
from harness.studies.study import Study
from harness.tuning.search import Search, find_trained_run
from harness.tuning.search_space import default_values, normalize_expression, search_space
from harness.tuning.trial_journal import Metric
from methods.core.wrapper import methods_within


@dataclass(frozen=True)
class StudySearches:
    """The searches of a study, and the methods that are not tuned.

    Attributes:
        searches: in the order of the study.
        untuned: (dataset and architecture, label) → why the method is not tuned.
    """

    searches: list[Search]
    untuned: dict[tuple[str, str], str]


def find_searches(
    study: Study, metric: Metric, seed: int, labels: Sequence[str] = (), *, prune: bool = True
) -> StudySearches:
    """Find the searches of a study, one for each dataset, architecture and method that can be tuned.

    Args:
        study: the study.
        metric: the metric to optimize, on validation data.
        seed: of tuning, for training and for the search.
        labels: of the methods to tune; none for all.
        prune: whether bad trials are stopped early.

    Raises:
        StudyError: for a dataset without held-out data, an unknown label, or a seed of the study's own. One message
            has all of them.
    """
    check_request(study, seed, labels)
    searches: dict[str, Search] = {}
    left: dict[tuple[str, str], str] = {}
    for group in study.cell_groups():
        dataset, architecture, label = group.name
        if labels and label not in labels:
            continue
        found = find_search(study, group.entry, tuning_run(group, seed), metric, prune=prune)
        if isinstance(found, Search):
            searches.setdefault(found.key, found)
        else:
            left[f"{dataset} · {architecture}", label] = found
    return StudySearches(list(searches.values()), left)


def tuning_run(group: CellGroup, seed: int) -> Run:
    """Return the run to tune, without anything that only testing needs."""
    run = group.run(seed)
    return run.model_copy(update={"dataset": without_test_data(run.dataset), "evaluate": ExtraMeasurements()})


def seeds_of(study: Study) -> list[int]:
    """List the seeds of all runs of a study, including the members of ensembles."""
    return sorted({planned.run.seed for planned in Plan(study).runs.values() if isinstance(planned.run, Run)})


def check_request(study: Study, seed: int, labels: Sequence[str]) -> None:
    """Check that the study can be tuned with this seed and these labels.

    Raises:
        StudyError: with everything that is wrong.
    """
    errors = []
    for dataset in dict.fromkeys(dataset for grid in study.grids for dataset in grid.datasets):
        if not has_validation_data(dataset):
            remedy = f"`datasets: [{{name: {dataset.name}, validation: NUMBER}}]`"
            errors.append(f"{dataset.label} holds out no validation data to tune on: write {remedy}")
    known = list(dict.fromkeys(group.entry.label for group in study.cell_groups()))
    errors += [f"--method {label}: the study has {', '.join(known)}" for label in labels if label not in known]
    used = seeds_of(study)
    if seed in used:
        listed = ", ".join(map(str, used))
        errors.append(
            f"--seed {seed} is one of the study's own ({listed}): values would be chosen on the runs it reports"
        )
    if errors:
        raise StudyError("\n".join(errors))


def without_test_data(dataset: DatasetSpec) -> DatasetSpec:
    """Remove the OOD datasets and corruptions of a dataset. Tuning neither needs nor loads them."""
    if dataset.name.partition(":")[0] in data.TEXTS:
        return dataset
    return dataset.model_copy(update={"ood": (), "ood_digests": (), "corruptions": "none"})


def find_search(study: Study, entry: Entry, run: Run, metric: Metric, *, prune: bool) -> Search | str:
    """Return the search for one method, or the reason why there is none.

    A method that trains nothing itself shares the search of the method inside it. For example, the members of
    `deep_ensemble(swa)` are runs of `swa`, so it takes the values chosen for `swa`.
    """
    methods = study.methods
    run, expression, method = find_trained_run(run, entry.written, methods)
    expression = normalize_expression(run.method, expression, methods)
    entries = (group.entry for group in study.cell_groups())
    same = (each for each in entries if normalize_expression(each.method, each.written, methods) == expression)
    label = next((each.label for each in same), expression)
    if not method.epochs:
        return "it combines runs of plain training, which has nothing to search"
    if method.needs():
        return "it starts from other runs"
    if any(part.watches == "test" for part in methods_within(method)):
        return "it selects on test data, which tuning never reads"
    space = search_space(run.method, expression, methods)
    if not space:
        return "nothing to search: all its hyperparameters are written out" if method.space else "nothing to search"
    defaults = default_values(run.method, expression, methods)
    return Search(run, label, space, defaults, metric, prune, methods, expression)
