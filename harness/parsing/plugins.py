"""Collects methods from the registry, from entry points of installed packages, and from plugin files."""

import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from inspect import isclass
from pathlib import Path

from harness.cache.user_cache import method_entry_points
from methods import METHODS
from methods.core.method import Method

MODULE_PREFIX = "economical_ensembles_plugin_"


def load_plugin(path: Path) -> dict[str, type[Method]]:
    """Load the methods of a Python file.

    A file with one `Method` subclass gives it the file's name. A file with several classes names them in a dict
    `METHODS`, as the registry does.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be executed, or contains no method, or several without names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"plugin {path}: no such file")
    if not path.stem.isidentifier():
        raise ValueError(f"plugin {path}: a study could not name it; call the file like my_method.py")
    spec = importlib.util.spec_from_file_location(f"{MODULE_PREFIX}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"plugin {path}: {type(error).__name__}: {error}") from error
    named = getattr(module, "METHODS", METHODS)
    if named is not METHODS:
        if not isinstance(named, dict):
            raise ValueError(f'plugin {path}: METHODS must be a dict {{"name": Class}}, not a {type(named).__name__}')
        return dict(named)
    found = [
        value
        for value in vars(module).values()
        if isclass(value) and issubclass(value, Method) and value.__module__ == spec.name
    ]
    if len(found) != 1:
        raise ValueError(
            f"plugin {path}: expected one subclass of methods.Method, found {len(found)}; "
            'name several in a dict METHODS = {"name": Class}'
        )
    return {path.stem: found[0]}


def plugin_digest(method: type[Method]) -> str | None:
    """Return the SHA-256 of the plugin file that defines a method; None if no plugin file does."""
    if not method.__module__.startswith(MODULE_PREFIX):
        return None
    file = sys.modules[method.__module__].__file__
    assert file is not None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def load_entry_point(point: EntryPoint) -> dict[str, type[Method]]:
    """Load a method of an installed package. If that fails, warn and return no method."""
    try:
        return {point.name: point.load()}
    except Exception as error:  # errors of another package must not stop studies that do not use it
        warnings.warn(f"entry point {point.value}: {type(error).__name__}: {error}", stacklevel=2)
        return {}


def available_methods(plugins: Iterable[Path] = ()) -> dict[str, type[Method]]:
    """Return all methods by name, from the registry, entry points and plugin files.

    Raises:
        ValueError: if two sources give the same name.
    """
    methods = dict(METHODS)
    sources = [(f"entry point {point.value}", load_entry_point(point)) for point in method_entry_points()]
    sources += [(f"plugin {path}", load_plugin(path)) for path in plugins]
    for source, found in sources:
        for name, method in found.items():
            if name in methods:
                raise ValueError(f"{source}: there is a method named {name!r} already")
            if not (isclass(method) and issubclass(method, Method)):
                raise ValueError(f"{source}: {name!r} is not a subclass of methods.Method")
            methods[name] = method
    return methods
