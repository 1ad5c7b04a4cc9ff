"""Reads and writes the YAML file of tuned values.

The file is small and its entries have a fixed order, so it can be kept under version control beside the study.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock
from optuna.trial import FrozenTrial
from pydantic import Field, ValidationError

from harness.parsing.method_expression import MethodSpec
from harness.parsing.yaml_errors import Errors, StudyError
from harness.parsing.yaml_file import is_file, read_yaml
from harness.store.environment import git_commit
from harness.store.run_folder import write_atomically
from harness.studies.run import Run
from harness.studies.study_files import check_same_study, path_from
from harness.tuning.search import Search
from harness.tuning.search_space import nested_methods, search_range
from harness.tuning.trial_budget import Budget, budget_used, default_trial
from harness.tuning.trial_journal import Metric, trial_end
from methods.core.recipe import CheckedModel, FrozenModel

HEAD = "# Written by `econ tune {study}`; used by `econ run {study} --tuned {file}`.\n"
CellName = tuple[str, str, str]
"""Dataset, architecture, and the study's label of a method."""
EntryKey = tuple[str, str, str]
"""Dataset, architecture, and method as written. The file has at most one entry for each."""
NOT_COMPARED = {"commit", "date", "optuna"}
"""Fields whose change alone is no reason to rewrite an entry."""


class TunedEntry(FrozenModel):
    """The chosen values of one method, and how they were found."""

    dataset: str
    architecture: str
    method: str
    """The expression in the study, with every hyperparameter that the study writes out."""
    values: dict[str, Any]
    """The chosen values by name. The name of an inner method and a dot precede the names of its values."""
    metric: Metric
    value: float
    """The metric on validation data, with the chosen values."""
    default: float | None
    """The metric on validation data, with the study's own values; None if their trial did not finish."""
    finished: int
    pruned: int
    failed: int
    refused: int
    cost: float
    """The cost of all trials, in plain trainings of one network."""
    trials: int
    """The maximum number of trials; the used number if an earlier, larger budget used more."""
    trainings: float
    """The maximum cost, in plain trainings of one network; the used cost if that is larger."""
    seed: int
    space: dict[str, str]
    versions: dict[str, int]
    """The versions of the methods in the expression."""
    recipe: str
    """The beginning of the SHA-256 of the run that was tuned: its data, architecture, recipe, precision and method."""
    optuna: str
    commit: str
    date: str

    @property
    def key(self) -> EntryKey:
        """The key of the entry in the file."""
        return self.dataset, self.architecture, self.method


class TunedFile(CheckedModel):
    """The contents of a file of tuned values."""

    study: str
    file: str = ""
    """The path of the study's file from the folder of this one; "" in files of earlier versions."""
    tuned: list[TunedEntry] = Field(default_factory=list)


def tuned_entry(search: Search, trials: Sequence[FrozenTrial], budget: Budget) -> TunedEntry | None:
    """Return the entry for the values that a search chose, or None if no trial finished."""
    best = search.best(trials)
    if best is None:
        return None
    states = [trial_end(trial)["state"] for trial in trials]
    first, used = default_trial(trials), budget_used(trials)
    return TunedEntry(
        dataset=search.run.dataset.label,
        architecture=search.run.architecture,
        method=search.expression,
        values=dict(sorted(best.params.items())),
        metric=search.metric,
        value=float(f"{best.values[0]:.6g}"),
        default=float(f"{first.values[0]:.6g}") if trial_end(first)["state"] == "finished" else None,
        finished=states.count("finished"),
        pruned=states.count("pruned"),
        failed=states.count("failed") + states.count("diverged"),
        refused=states.count("refused"),
        cost=float(f"{used.cost:.6g}"),
        trials=max(budget.trials, used.counted),
        trainings=budget.cost if used.cost <= budget.max_cost else float(f"{used.cost:.6g}"),
        seed=search.run.seed,
        space={name: search_range(each) for name, each in sorted(search.space.items())},
        versions=method_versions(search.run.method, search),
        recipe=fingerprint(search.run),
        optuna=optuna.__version__,
        commit=git_commit(),
        date=max(trial.datetime_complete for trial in trials if trial.datetime_complete).date().isoformat(),
    )


def fingerprint(run: Run) -> str:
    """Return the short key by which the file identifies a tuned run."""
    return run.key[:12]


def method_versions(spec: MethodSpec, search: Search) -> dict[str, int]:
    """Return the versions of a method and of the methods inside it, by name."""
    return {each.spec.name: each.spec.version for each in nested_methods(spec, str(spec), search.methods)}


def update_tuned_values(path: Path, study: str, origin: Path, entries: Sequence[TunedEntry], lock: Path) -> None:
    """Add entries to a file of tuned values, and replace older entries with the same keys.

    Args:
        path: of the file. It is created if it does not exist.
        study: name of the tuned study.
        origin: the study's file.
        entries: to add. An entry that differs only in the fields of `NOT_COMPARED` is not replaced.
        lock: path of a lock file, held meanwhile because another driver may write too.

    Raises:
        StudyError: if the existing file is not a file of tuned values, or belongs to another study.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        check_owner(path, study, origin)
        known = read_tuned_values(path)[0] if path.exists() else TunedFile(study=study)
        found = {entry.key: entry for entry in known.tuned}
        for entry in entries:
            old = found.get(entry.key)
            if old is None or old.model_dump(exclude=NOT_COMPARED) != entry.model_dump(exclude=NOT_COMPARED):
                found[entry.key] = entry
        listed = [entry.model_dump() for _, entry in sorted(found.items())]
        text = HEAD.format(study=study, file=path) + yaml.safe_dump(
            {"study": study, "file": path_from(path.parent, origin), "tuned": listed},
            sort_keys=False,
            allow_unicode=True,
            width=120,
        )
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, lambda file: file.write(text.encode()))


def check_owner(path: Path, study: str, origin: Path) -> None:
    """Refuse a file that holds the tuned values of another study.

    Args:
        path: of the file of tuned values.
        study: name of the tuned study.
        origin: the study's file.

    Raises:
        StudyError: if the study has another name, or is another file, which is still there.
    """
    if not path.exists():
        return
    known = read_tuned_values(path)[0]
    if known.study != study:
        raise StudyError(f"--output {path}: holds the tuned values of study {known.study!r}, not of {study!r}")
    check_same_study(path.parent, known.file, origin, f"--output {path}: holds the tuned values")


def read_tuned_values(path: Path) -> tuple[TunedFile, Errors]:
    """Read a file of tuned values.

    Returns:
        The contents, and a collector for further errors in the file.

    Raises:
        StudyError: if it is not a file of tuned values, with the location of every error.
    """
    if not is_file(path):
        raise StudyError(f"{path}: no such file; `econ tune` writes it")
    _, raw, lines = read_yaml(path)
    errors = Errors(path, lines)
    if not isinstance(raw, dict):
        raise StudyError(f"{path}: expected a mapping with the keys study, tuned; `econ tune` writes it")
    errors.add_repeated_keys()
    try:
        found = TunedFile.model_validate(raw)
    except ValidationError as error:
        errors.add_validation_errors(raw, error)
        found = TunedFile(study="")
    raise_any(errors)
    return found, errors


def raise_any(errors: Errors) -> None:
    """Raise `StudyError` if errors were reported."""
    if errors.messages:
        raise StudyError("the tuned values cannot be used\n" + "\n".join(f"  {error}" for error in errors.messages))
