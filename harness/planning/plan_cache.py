"""Plans of studies in the user's cache.

Checking a study builds each of its methods once, which takes seconds. The plan is kept, and is valid while everything
that it depends on is the same: the study file, plugins with the modules that they use, tuned values, scale, data files
given by a path, and the installed code. A study that fails its checks is never kept.
"""

import ast
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.cache.user_cache import entry_key, read_entry, write_entry
from harness.planning.planned_runs import FigureSummary, Planned, PlannedRuns, StudySummary

LINKS = ("labels", "role", "needs", "epochs", "warning", "reference_runs", "trunks", "trunk_epochs", "contained")
"""The fields of `Planned` that are kept as they are."""


@dataclass(frozen=True)
class CachedRun:
    """What the cache keeps of a run: enough to look at it, and its spec, from which it can be made.

    Attributes:
        kind: class of the run: "Run", "TrunkRun" or "QuadraticRun".
        key: its key.
        name: its name for people.
        setup: architecture, dataset and seed.
        tagged: its tags in MLflow.
        values: its fields as JSON values.
    """

    kind: str
    key: str
    name: str
    setup: str
    tagged: Mapping[str, str]
    values: Mapping[str, Any]

    def tags(self) -> dict[str, str]:
        """Return the tags that describe the run in MLflow."""
        return dict(self.tagged)

    def __str__(self) -> str:
        """Return the run's name for people."""
        return self.name


def plan_key(study: Path, plugins: list[Path], tuned: Path | None, scale: str | None, *, share: bool) -> str:
    """Return the name of a plan in the cache; the content of the files is compared when it is read.

    Args:
        study: its YAML file.
        plugins: plugin files that the command line names.
        tuned: file of tuned values.
        scale: scale of a rehearsal.
        share: whether runs share trunks.
    """
    paths = [str(path) for path in (study, *plugins)]
    where = [str(Path.cwd()), os.environ.get("PYTHONPATH")]  # relative paths and the modules of plugins are found there
    return entry_key("plan", where, paths, None if tuned is None else str(tuned), scale, share)


def read_plan(key: str) -> PlannedRuns | None:
    """Return a plan from the cache; None if there is none that still holds."""
    value = read_entry(key)
    if value is None:
        return None
    study = dict(value["study"])
    study["plugins"] = tuple(map(Path, study["plugins"]))
    study["figures"] = tuple(
        FigureSummary(**figure | {"cells": tuple(map(tuple, figure["cells"]))}) for figure in study["figures"]
    )
    runs = {}
    for run, links in value["runs"]:
        known: dict[str, Any] = {name: tuple(link) if isinstance(link, list) else link for name, link in links.items()}
        runs[run["key"]] = Planned(CachedRun(**run), **known)
    return PlannedRuns(StudySummary(**study), runs)


def write_plan(key: str, plan: PlannedRuns, files: list[Path], began: float) -> None:
    """Keep a plan, unless a file was edited meanwhile, or a run does not come back as it is.

    Args:
        key: what `plan_key` returned.
        plan: of a study that passed all checks.
        files: the study file and all others that the plan depends on, without the modules that plugins use.
        began: when the checks began, in seconds since 1970.
    """
    from harness.parsing.plugins import absent_files, source_files

    files = [*files, *source_files(plan.study.plugins)]
    if any(last_change(file) >= began for file in files):
        return
    runs = []
    for planned in plan.runs.values():
        kept = fields_to_keep(planned.run)
        if kept is None:
            return
        runs.append((kept, {name: getattr(planned, name) for name in LINKS}))
    study = {each.name: getattr(plan.study, each.name) for each in fields(StudySummary)}
    study["plugins"] = [str(path) for path in plan.study.plugins]
    study["figures"] = [asdict(figure) for figure in plan.study.figures]
    write_entry(key, {"study": study, "runs": runs}, files, absent_files(plan.study.plugins))


def last_change(path: Path) -> float:
    """Return when a file, or any file below a folder, was last changed; infinity if that cannot be seen."""
    try:
        inside = path.rglob("*") if path.is_dir() else ()
        found = [file.stat() for file in (path, *inside)]
        return float(max(max(each.st_mtime, each.st_ctime) for each in found))
    except OSError:
        return math.inf


def fields_to_keep(run: Any) -> dict[str, Any] | None:
    """Return the fields of a run's `CachedRun`; None if its spec cannot be made again of them."""
    try:
        kept = describe(run)
        return kept if load_spec(CachedRun(**kept)) == run else None
    except (ValueError, SyntaxError, TypeError, AssertionError):  # a value that is no literal, as of a plugin's type
        return None


def describe(run: Any) -> dict[str, Any]:
    """Return the fields of a run's `CachedRun`."""
    return {
        "kind": type(run).__name__,
        "key": run.key,
        "name": str(run),
        "setup": run.setup,
        "tagged": run.tags(),
        "values": with_literals(run.model_dump(mode="json", exclude_defaults=True), run),
    }


def with_literals(values: dict[str, Any], run: Any) -> dict[str, Any]:
    """Write the hyperparameters of a run, or of a trunk's run, as Python literals: JSON has no tuples."""
    if inner := getattr(run, "run", None):
        return values | {"run": with_literals(values["run"], inner)}
    spec, method = values.get("method"), getattr(run, "method", None)
    while spec and method:
        if method.hyperparameters:
            spec["hyperparameters"] = repr(dict(method.hyperparameters))
        spec, method = spec.get("of"), method.of
    return values


def without_literals(values: Any) -> Any:
    """Return the values that `with_literals` was given."""
    if not isinstance(values, dict):
        return values
    read = {name: without_literals(value) for name, value in values.items()}
    if isinstance(read.get("hyperparameters"), str):
        read["hyperparameters"] = ast.literal_eval(read["hyperparameters"])
    return read


def load_spec(run: Any) -> Any:
    """Return the run spec that a `CachedRun` stands for; a spec is returned as it is."""
    if not isinstance(run, CachedRun):
        return run
    from harness.planning.trunks import TrunkRun
    from harness.quadratic.problem import QuadraticRun
    from harness.studies.run import Run

    kinds: dict[str, type[Run | TrunkRun | QuadraticRun]] = {
        "Run": Run,
        "TrunkRun": TrunkRun,
        "QuadraticRun": QuadraticRun,
    }
    made = kinds[run.kind].model_validate(without_literals(dict(run.values)))
    if made.key != run.key:
        raise AssertionError(f"{run.name}: the cached spec has the key {made.key}, not {run.key}")
    return made


def with_specs(plan: PlannedRuns) -> PlannedRuns:
    """Return the same plan with the specs that engines execute, in the place of what the cache keeps of them."""
    runs = {key: replace(planned, run=load_spec(planned.run)) for key, planned in plan.runs.items()}
    return PlannedRuns(plan.study, runs)


def data_files(plan: PlannedRuns) -> list[Path]:
    """Return the user's own files and folders that the datasets of a plan's runs are read from."""
    import data
    from harness.studies.run import Run

    datasets = {planned.run.dataset for planned in plan.runs.values() if isinstance(planned.run, Run)}
    names = {name for dataset in datasets for name in (dataset.name, *(dataset.ood or ()))}
    parts = (name.partition(":") for name in sorted(names))
    return [Path(path) for kind, _, path in parts if kind in data.WITH_PATH and path]
