"""Collects methods from the registry, from entry points of installed packages, and from plugin files."""

import importlib.util
import keyword
import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from inspect import isclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from optuna.distributions import BaseDistribution

import methods
from harness.cache.user_cache import method_entry_points
from harness.parsing.hyperparameters import check_hyperparameters
from harness.parsing.plugin_sources import PluginSource, find_sources, forget_modules, importing_beside
from harness.parsing.yaml_file import is_file
from methods import METHODS, About
from methods.core.method import Method
from methods.core.random_streams import all_seeded, stream

MODULE_PREFIX = "economical_ensembles_plugin_"
MOST_VERSIONS = 1_000_000
"""The largest version of a method."""


class Methods(dict[str, type[Method]]):
    """Methods by name.

    Attributes:
        sources: the files that each method of a plugin is made of, by the method's name. They go by the name, because
            a plugin may name a class that others name too, or that is one of ours.
    """

    def __init__(self, methods: Mapping[str, type[Method]]) -> None:
        """Start with methods that come from no plugin."""
        super().__init__(methods)
        self.sources: dict[str, PluginSource] = {}


class Plugin(NamedTuple):
    """A loaded plugin.

    Attributes:
        path: its file.
        methods: what it names.
        source: the files that it is made of.
    """

    path: Path
    methods: dict[str, type[Method]]
    source: PluginSource


LOADED: dict[Path, PluginSource] = {}
"""What each plugin file was made of when it was last loaded."""


def load_plugin(path: Path) -> dict[str, type[Method]]:
    """Load the methods of one Python file; see `load_plugins`."""
    return load_plugins([path])[0].methods


def load_plugins(paths: Iterable[Path]) -> list[Plugin]:
    """Load the methods of Python files, and of modules that they import; what was loaded before is read anew.

    A file with one `Method` subclass gives it the file's name. A file with several classes names them in a dict
    `METHODS`, as the registry does.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file cannot be executed, or contains no method, or several without names; or if it imports a
            module from beside it and Python finds another one.
    """
    plugins: list[Plugin] = []
    for path in paths:
        if not plugins:
            forget_modules()
        module, source = execute_plugin(path)
        LOADED[path] = source
        plugins.append(Plugin(path, named_methods(module, path), source))
    return plugins


def execute_plugin(path: Path) -> tuple[ModuleType, PluginSource]:
    """Execute a Python file; return its module, and the files that it is made of."""
    if not is_file(path):
        raise FileNotFoundError(f"plugin {path}: no such file")
    if not path.stem.isidentifier():
        raise ValueError(f"plugin {path}: a study could not name it; call the file like my_method.py")
    spec = importlib.util.spec_from_file_location(f"{MODULE_PREFIX}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    ours = attributes_of_ours()
    with importing_beside(path) as imported, all_seeded(stream(0, "global generators in the bodies of plugins")):
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything
            find_sources(spec, path, imported)  # says so if it imported a module other than the one beside it
            hint = "; a plugin is imported, and must not end the program" if isinstance(error, SystemExit) else ""
            raise ValueError(f"plugin {path}: {describe_error(error)}{hint}") from error
    changed = next((name for name, value in attributes_of_ours().items() if ours.get(name, module) is not value), "")
    if changed:
        raise ValueError(
            f"plugin {path}: it changes {changed}, which other methods use, too, under the keys that they always had; "
            "override it in a class of your own"
        )
    return module, find_sources(spec, path, imported)


def describe_error(error: BaseException) -> str:
    """Return the type and the text of an error, if it has one."""
    try:
        text = str(error)
    except Exception:  # of a class whose texts fail
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def attributes_of_ours() -> dict[str, object]:
    """Return the attributes of all classes that `methods` names, by the class and their name."""
    classes = [value for value in vars(methods).values() if isclass(value)]
    return {f"{cls.__name__}.{name}": value for cls in classes for name, value in vars(cls).items() if name[:2] != "__"}


def named_methods(module: ModuleType, path: Path) -> dict[str, type[Method]]:
    """Return the methods that a plugin names.

    Raises:
        ValueError: if it contains no method, or several without names.
    """
    named = vars(module).get("METHODS", METHODS)
    if named is not METHODS:
        if not isinstance(named, dict):
            raise ValueError(f'plugin {path}: METHODS must be a dict {{"name": Class}}, not a {type(named).__name__}')
        return dict(named)
    found = [
        value
        for value in vars(module).values()
        if isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(
            f"plugin {path}: expected one subclass of methods.Method, found {len(found)}; "
            'name several in a dict METHODS = {"name": Class}'
        )
    return {path.stem: found[0]}


def source_files(plugins: Iterable[Path]) -> list[Path]:
    """Return the files that loaded plugins are made of."""
    return [file for plugin in plugins for file in LOADED[plugin].paths]


def absent_files(plugins: Iterable[Path]) -> list[Path]:
    """Return the files that loaded plugins would be made of, too, if they were there."""
    return [file for plugin in plugins for file in LOADED[plugin].absent]


def source_digest(methods: Mapping[str, type[Method]], name: str) -> str | None:
    """Return the SHA-256 of the files that a method of a plugin is made of; None for a method of no plugin."""
    source = methods.sources.get(name) if isinstance(methods, Methods) else None
    return source.digest if source else None


def load_entry_point(point: EntryPoint) -> dict[str, type[Method]]:
    """Load a method of an installed package. If that fails, warn and return no method."""
    try:
        method = point.load()
        check_declared(point.name, method)
        return {point.name: method}
    except (Exception, SystemExit) as error:  # errors of another package must not stop studies that do not use it
        warnings.warn(f"entry point {point.value}: {type(error).__name__}: {error}", stacklevel=2)
        return {}


def check_declared(name: object, method: object) -> None:
    """Refuse what no study could name or build.

    Args:
        name: the name of a method.
        method: its class.

    Raises:
        ValueError: saying what is wrong, and what to write.
    """
    if not (isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)):
        raise ValueError(f"a study could not name a method {name!r}; its name must be a text like my_method")
    if not (isclass(method) and issubclass(method, Method)):
        raise ValueError(f"{name!r} is not a subclass of methods.Method")
    version: object = method.version
    if type(version) is not int or not 1 <= version <= MOST_VERSIONS:
        shown = "larger" if type(version) is int and version > MOST_VERSIONS else repr(version)
        raise ValueError(f"the version of {name} is {shown}; it must be a whole number from 1 to {MOST_VERSIONS:,}")
    if not isinstance(method.about, About):
        raise ValueError(f"{name}.about is {method.about!r}; it must be methods.About(…)")
    if not isinstance(method.space, dict) or not all(
        isinstance(each, BaseDistribution) for each in method.space.values()
    ):
        raise ValueError(f"{name}.space must be a dict of Optuna's distributions, as in {{'K': IntDistribution(2, 9)}}")
    try:
        check_hyperparameters(method)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def available_methods(plugins: Iterable[Path] = ()) -> Methods:
    """Return all methods by name, from the registry, entry points and plugin files.

    Raises:
        ValueError: if two sources give the same name.
    """
    methods = Methods(METHODS)
    found: list[tuple[str, Mapping[str, type[Method]], PluginSource | None]]
    found = [(f"entry point {point.value}", load_entry_point(point), None) for point in method_entry_points()]
    found += [(f"plugin {plugin.path}", plugin.methods, plugin.source) for plugin in load_plugins(plugins)]
    for origin, named, source in found:
        for name, method in named.items():
            if name in methods:
                raise ValueError(f"{origin}: there is a method named {name!r} already")
            if source:
                try:
                    check_declared(name, method)
                except ValueError as error:
                    raise ValueError(f"{origin}: {error}") from error
            methods[name] = method
            if source:
                methods.sources[name] = source
    return methods
