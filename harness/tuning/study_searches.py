"""Which searches the tuning of a study takes: for each dataset, architecture and method, or why none."""

from collections.abc import Sequence
from dataclasses import dataclass

import data
from harness.parsing.yaml_errors import StudyError
from harness.planning.plan import Plan
from harness.studies.check_study import holds_out
from harness.studies.extra_measures import Measures
from harness.studies.grid import Entry, Place
from harness.studies.run import DatasetSpec, Run
from harness.studies.study import Study
from harness.tuning.search import Search, trained
from harness.tuning.search_space import as_written, default_values, search_space
from harness.tuning.trial_journal import Metric
from methods.core.wrapper import methods_within


@dataclass(frozen=True)
class StudySearches:
    """What a study tunes.

    Attributes:
        searches: in the order of the study.
        untuned: (dataset and architecture, label) → why this method stays as the study writes it.
    """

    searches: list[Search]
    untuned: dict[tuple[str, str], str]


def find_searches(
    study: Study, metric: Metric, seed: int, labels: Sequence[str] = (), *, prune: bool = True
) -> StudySearches:
    """Say what is searched for each dataset, architecture and method of a study.

    Args:
        study: the study.
        metric: what is made better, on validation data.
        seed: of tuning, for training and for the search itself.
        labels: of the methods to tune; none for all.
        prune: whether trials that do badly are stopped early.

    Raises:
        StudyError: for a dataset that holds nothing out, a label or a seed that does not do, all in one message.
    """
    check_request(study, seed, labels)
    searches: dict[str, Search] = {}
    left: dict[tuple[str, str], str] = {}
    for place in study.places():
        dataset, architecture, label = place.name
        if labels and label not in labels:
            continue
        found = find_search(study, place.entry, tuning_run(place, seed), metric, prune=prune)
        if isinstance(found, Search):
            searches.setdefault(found.key, found)
        else:
            left[f"{dataset} · {architecture}", label] = found
    return StudySearches(list(searches.values()), left)


def tuning_run(place: Place, seed: int) -> Run:
    """Give the run of a method that is tuned: what its training takes, and nothing that only a test needs."""
    run = place.run(seed)
    return run.model_copy(update={"dataset": without_companions(run.dataset), "evaluate": Measures()})


def seeds_of(study: Study) -> list[int]:
    """List the seeds of all runs of a study, also of those that others are made of."""
    return sorted({planned.run.seed for planned in Plan(study).runs.values() if isinstance(planned.run, Run)})


def check_request(study: Study, seed: int, labels: Sequence[str]) -> None:
    """Refuse to tune what cannot be tuned.

    Raises:
        StudyError: naming everything that is wrong.
    """
    errors = []
    for dataset in dict.fromkeys(dataset for grid in study.grids for dataset in grid.datasets):
        if not holds_out(dataset):
            remedy = f"`datasets: [{{name: {dataset.name}, validation: NUMBER}}]`"
            errors.append(f"{dataset.label} holds no validation data out to tune on: write {remedy}")
    known = list(dict.fromkeys(place.entry.label for place in study.places()))
    errors += [f"--method {label}: the study has {', '.join(known)}" for label in labels if label not in known]
    used = seeds_of(study)
    if seed in used:
        listed = ", ".join(map(str, used))
        errors.append(
            f"--seed {seed} is one of the study's own ({listed}): values would be chosen on the runs it reports"
        )
    if errors:
        raise StudyError("\n".join(errors))


def without_companions(dataset: DatasetSpec) -> DatasetSpec:
    """Drop what a dataset is tested against, which is neither needed nor loaded while tuning."""
    if dataset.name.partition(":")[0] in data.TEXTS:
        return dataset
    return dataset.model_copy(update={"ood": (), "ood_digests": (), "corruptions": "none"})


def find_search(study: Study, entry: Entry, run: Run, metric: Metric, *, prune: bool) -> Search | str:
    """Give the search for one method, or say why there is none.

    A method that trains nothing itself is tuned as what it is made of: the members of `deep_ensemble(swa)` are those of
    `swa`, whose chosen values it takes.
    """
    methods = study.methods
    run, text, method = trained(run, entry.written, methods)
    text = as_written(run.method, text, methods)
    entries = (place.entry for place in study.places())
    same = (each for each in entries if as_written(each.method, each.written, methods) == text)
    label = next((each.label for each in same), text)
    if not method.epochs:
        return "it combines runs of plain training, which has nothing to search"
    if method.needs():
        return "it starts from other runs"
    if any(part.watches == "test" for part in methods_within(method)):
        return "it is chosen on test data, which tuning never opens"
    space = search_space(run.method, text, methods)
    if not space:
        return "nothing to search: all its hyperparameters are written out" if method.space else "nothing to search"
    return Search(run, label, space, default_values(run.method, text, methods), metric, prune, methods, text)
