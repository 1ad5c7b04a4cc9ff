"""The YAML file in which tuning writes what it chose: small, in a stable order, made to be kept with a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock
from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.parsing.method_expression import MethodSpec
from harness.parsing.yaml_errors import Errors, Lines, StudyError
from harness.store.environment import commit
from harness.store.run_folder import write
from harness.studies.run import Run
from harness.tuning.search import Search
from harness.tuning.search_space import levels, search_range
from harness.tuning.trial_budget import Budget, budget_used, default_trial
from harness.tuning.trial_journal import Metric, trial_end
from methods.core.recipe import Part

HEAD = "# Written by `econ tune {study}`; used by `econ run {study} --tuned {file}`.\n"
Place = tuple[str, str, str]
"""Dataset, architecture, method."""
UNIMPORTANT = {"commit", "date", "optuna"}
"""What alone is no reason to write an entry anew."""


class TunedEntry(Part):
    """What was chosen for one method."""

    dataset: str
    architecture: str
    method: str
    """As the study has it, with all that it writes out."""
    values: dict[str, Any]
    """Chosen, by name; of a method inside, its name and a dot come first."""
    metric: Metric
    value: float
    """Of the metric on validation data, with these values."""
    default: float | None
    """The same with the study's own values; None if they did not finish."""
    finished: int
    pruned: int
    failed: int
    refused: int
    cost: float
    """Spent, in plain trainings of one network."""
    trials: int
    """Allowed, or as many as an earlier, larger budget has used."""
    trainings: float
    """Allowed or used, in plain trainings of one network."""
    seed: int
    space: dict[str, str]
    versions: dict[str, int]
    """Of the methods that the expression names."""
    recipe: str
    """The beginning of the SHA-256 of the run that was tuned: its data, architecture, recipe, precision and method."""
    optuna: str
    commit: str
    date: str

    @property
    def place(self) -> Place:
        """What there is one entry for."""
        return self.dataset, self.architecture, self.method


class TunedFile(BaseModel):
    """What a file of tuned values holds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    study: str
    tuned: list[TunedEntry] = Field(default_factory=list)


def tuned_entry(search: Search, trials: Sequence[FrozenTrial], budget: Budget) -> TunedEntry | None:
    """Describe what a search chose; None if no trial finished."""
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
        trainings=budget.cost if used.cost <= budget.most else float(f"{used.cost:.6g}"),
        seed=search.run.seed,
        space={name: search_range(each) for name, each in sorted(search.space.items())},
        versions=versions(search.run.method, search),
        recipe=fingerprint(search.run),
        optuna=optuna.__version__,
        commit=commit(),
        date=max(trial.datetime_complete for trial in trials if trial.datetime_complete).date().isoformat(),
    )


def fingerprint(run: Run) -> str:
    """Give what tells one tuned run from another in the file."""
    return run.key[:12]


def versions(spec: MethodSpec, search: Search) -> dict[str, int]:
    """Give the versions of a method and of those inside it."""
    return {level.spec.name: level.spec.version for level in levels(spec, str(spec), search.methods)}


def update_tuned_values(path: Path, study: str, entries: Sequence[TunedEntry], lock: Path) -> None:
    """Put entries into a file of tuned values, in the place of older ones of the same methods; the others stay.

    Args:
        path: of the file, which is made if there is none.
        study: whose methods were tuned.
        entries: new ones; one that differs in nothing but when and with which commit it was made stays as it was.
        lock: held meanwhile, for another driver may write too.

    Raises:
        StudyError: if there is another file, or one of another study.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        known = read_tuned_values(path)[0] if path.exists() else TunedFile(study=study)
        if known.study != study:
            raise StudyError(f"{path}: holds the tuned values of study {known.study!r}, not of {study!r}")
        found = {entry.place: entry for entry in known.tuned}
        for entry in entries:
            old = found.get(entry.place)
            if old is None or old.model_dump(exclude=UNIMPORTANT) != entry.model_dump(exclude=UNIMPORTANT):
                found[entry.place] = entry
        listed = [entry.model_dump() for _, entry in sorted(found.items())]
        text = HEAD.format(study=study, file=path) + yaml.safe_dump(
            {"study": study, "tuned": listed}, sort_keys=False, allow_unicode=True, width=120
        )
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write(path, lambda file: file.write(text.encode()))


def read_tuned_values(path: Path) -> tuple[TunedFile, Errors]:
    """Read a file of tuned values.

    Returns:
        What it holds, and where to note what is wrong with it.

    Raises:
        StudyError: if it is none, with the place of every error.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        errors = Errors(path, Lines(text))
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such file; `econ tune` writes it") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{path}: expected a mapping with the keys study, tuned; `econ tune` writes it")
    errors.repeated_keys()
    try:
        found = TunedFile.model_validate(raw)
    except ValidationError as error:
        errors.report(raw, error)
        found = TunedFile(study="")
    raise_any(errors)
    return found, errors


def raise_any(errors: Errors) -> None:
    """Raise `StudyError` if something is wrong with the tuned values."""
    if errors.found:
        raise StudyError("the tuned values cannot be used\n" + "\n".join(f"  {error}" for error in errors.found))
