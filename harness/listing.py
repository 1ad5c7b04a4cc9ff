"""What `econ list` prints: (name, description) rows."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data import DATASETS
from harness.expression import hyperparameters, literal
from harness.study import find, names
from methods.plugins import available
from models import MODELS

Rows = list[tuple[str, str]]


def methods(plugins: Sequence[Path] = ()) -> Rows:
    """List the methods with their hyperparameters and defaults.

    Raises:
        ValueError: if a plugin holds no method.
        FileNotFoundError: if there is no such plugin.
    """
    rows = []
    for name, method in available(plugins).items():
        known = hyperparameters(method)
        values = [f"{key}={literal(default)}" for key, (_, default) in known.items() if key != "of"]
        arguments = [*(["METHOD"] if "of" in known else []), *values]
        rows.append((f"{name}({', '.join(arguments)})", first_line(method.__doc__)))
    return rows


def models() -> Rows:
    """List the architectures."""
    return [(name, first_line(build.__doc__)) for name, build in MODELS.items()]


def datasets() -> Rows:
    """List the datasets."""
    return [(name, first_line(load.__doc__)) for name, load in DATASETS.items()]


def studies() -> Rows:
    """List the studies that come with the project."""
    return [(name, first_line(find(name).read_text())) for name in names()]


LISTINGS: dict[str, Callable[[], Rows]] = {"models": models, "datasets": datasets, "studies": studies}


def first_line(text: str | None) -> str:
    """Give the first line of a docstring or a comment."""
    return next(iter((text or "").strip().splitlines()), "").lstrip("# ")
