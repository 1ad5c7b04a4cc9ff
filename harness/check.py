"""Checks of a study beyond the form of its file: whether its parts fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

import data
from harness.build import imagine_method
from harness.expression import MethodSpec, closest
from harness.places import Errors
from harness.run import Run
from methods.recipe import Recipe

if TYPE_CHECKING:
    from harness.study import Study

PLAIN = MethodSpec(name="sgd")


def check_labels(study: Study, errors: Errors) -> None:
    """Report methods that could not be told apart in tables, or that are listed twice."""
    labels: dict[str, str] = {}
    methods: dict[str, str] = {}
    for k, entry in enumerate(study.file.methods):
        place, method = ("methods", errors.index("methods", k)), str(entry.method)
        if labels.setdefault(entry.label, method) != method:
            errors.add(place, f"the label {entry.label!r} is that of {labels[entry.label]} already")
        elif method in methods:
            errors.add(place, f"{method} is listed already, as {methods[method]!r}")
        methods.setdefault(method, entry.label)


def check_overrides(study: Study, errors: Errors) -> None:
    """Report overrides that match nothing or that no recipe accepts."""
    base = study.file.recipe.model_dump(exclude_unset=True)
    for i, override in enumerate(study.file.overrides):
        place = errors.index("overrides", i)
        datasets = [dataset.name for dataset in study.file.datasets]
        for field, value, known in (
            ("dataset", override.dataset, datasets),
            ("architecture", override.architecture, study.file.architectures),
        ):
            if value is not None and value not in known:
                errors.add(("overrides", place, field), f"{value!r} is not in this study; {closest(value, known)}")
        try:
            Recipe.model_validate(base | override.recipe)
        except ValidationError as error:
            rest = errors.report(override.recipe, error, ("overrides", place, "recipe"))
            study.file.overrides[i] = override.model_copy(update={"recipe": rest})


def check_builds(study: Study, errors: Errors) -> None:
    """Report datasets, architectures and methods that cannot be built together, in the first seed."""
    file = study.file
    for i, dataset in enumerate(file.datasets):
        try:
            shape = data.shape(dataset.name, validation=dataset.validation, train_size=dataset.train_size)
        except (ValueError, OSError) as error:
            errors.add(("datasets", errors.index("datasets", i)), str(error))
            continue
        for j, architecture in enumerate(file.architectures):
            try:
                recipe = study.recipe(dataset, architecture)
                plain = Run(dataset=dataset, architecture=architecture, method=PLAIN, seed=file.seeds[0], recipe=recipe)
                imagine_method(plain, study.methods, shape)
            except ValidationError:
                continue  # reported as an override
            except ValueError as error:
                errors.add(("architectures", errors.index("architectures", j)), str(error))
                continue
            for k, entry in enumerate(file.methods):
                try:
                    imagine_method(plain.model_copy(update={"method": entry.method}), study.methods, shape)
                except Exception as error:  # whatever a user's own method raises is the user's to read
                    reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                    place = ("methods", errors.index("methods", k))
                    errors.add(place, f"{entry.method} on {architecture}: {reason}")
