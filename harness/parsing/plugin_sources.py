"""Finds the files that a plugin is made of: its own, and those of every module of the user's that it uses.

A module is the user's if it is neither part of Python, nor installed, nor one of our packages. A plugin uses the
modules that loading it imports, those that its files name in import statements, inside functions too, and those of
which classes and functions stand in its files' global names, also if they were loaded by their path.
"""

import ast
import hashlib
import importlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from inspect import isclass, isfunction, ismodule, isroutine
from itertools import chain
from pathlib import Path

from harness.cache.user_cache import PACKAGES, ROOT

INTERFACE = 3
"""Part of the keys of all runs of plugin methods. It is raised when the harness changes what such methods compute."""
INSTALLED = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
NESTED = 3
"""How deep containers in global names are looked through."""
INSTALLED_PARTS = {"site-packages", "dist-packages"}
"""Names of folders of installed packages; there may be more of them than this Python's own."""

FOLDERS: list[str] = []
"""The folders that this module has added to `sys.path`: those of the plugins that were loaded last."""
IMPORTED: set[str] = set()
"""Names of the user's modules that these plugins imported, or may import later."""


@dataclass(frozen=True)
class PluginSource:
    """The files that a plugin is made of.

    Attributes:
        files: their contents, by the names under which Python would find them beside the plugin.
        paths: where they lie.
        absent: where other files would lie that it imports if they are there (`try: import …`).
    """

    files: Mapping[str, bytes]
    paths: tuple[Path, ...]
    absent: tuple[Path, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all of it, part of the keys of its methods' runs. It does not depend on where files lie."""
        files = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        text = json.dumps({"interface": INTERFACE, "files": files}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def forget_modules() -> None:
    """Forget the modules that plugins imported, and their folders, so that the next plugins read their own anew."""
    for name in IMPORTED:
        sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if folder not in FOLDERS]
    IMPORTED.clear()
    FOLDERS.clear()
    importlib.invalidate_caches()


@contextmanager
def importing_beside(plugin: Path) -> Iterator[set[str]]:
    """Let Python find the modules beside a plugin, after all others, from now on.

    From now on Python writes no compiled modules either: of a module that is edited within a second, it would execute
    the old one, when the module is imported late too.

    Yields:
        A set, which holds the names of the user's modules that the body of the `with` block has imported, in the end.
    """
    folder = str(folder_of(plugin))
    if folder not in sys.path:
        sys.path.append(folder)
        FOLDERS.append(folder)
    imported: set[str] = set()
    before = set(sys.modules)
    sys.dont_write_bytecode = True
    try:
        yield imported
    finally:
        imported |= {name for name in sys.modules.keys() - before if is_users_module(locate(name))}
        IMPORTED.update(imported)


def find_sources(plugin: ModuleSpec, path: Path, imported: Iterable[str]) -> PluginSource:
    """Find the files of a plugin.

    Args:
        plugin: the spec of its module.
        path: its file, as the user wrote it.
        imported: names of the user's modules that loading it imported.

    Raises:
        ValueError: if one of them names a module that lies beside the plugin, and Python finds another one.
    """
    found: dict[str, Path] = {}
    files: dict[str, bytes] = {}
    absent: set[Path] = set()
    waiting = {plugin.name, *imported}
    while waiting:
        name = waiting.pop()
        spec = locate(name)
        if spec is None:
            absent.update(would_lie_at(name))
        if name in found or spec is None or spec.origin is None or not (spec is plugin or is_users_module(spec)):
            continue
        file = found[name] = Path(spec.origin)
        folders = spec.parent.split(".") if spec.parent else []
        content = files["/".join([*folders, file.name])] = file.read_bytes()
        written = imported_names(content, spec.parent or "")
        for each in written:
            check_found_beside(each, path, file)
        waiting |= written | global_names(name)
    IMPORTED.update(found.keys() - sys.modules.keys())
    for file in loaded_by_path([vars(sys.modules[name]) for name in found if name in sys.modules]):
        content = file.read_bytes()
        found[str(file)] = file
        if content not in files.values():
            files[file.name if file.name not in files else f"{file.parent.name}/{file.name}"] = content
    return PluginSource(files, tuple(found.values()), tuple(sorted(absent)))


def folder_of(plugin: Path) -> Path:
    """Return the folder beside whose modules a plugin lies; as for a script, links to it are followed."""
    return plugin.resolve().parent


def locate(name: str) -> ModuleSpec | None:
    """Return where Python finds a module, without importing it; None for nowhere."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    parent = name.rpartition(".")[0]
    if not parent:
        return PathFinder.find_spec(name)
    above = locate(parent)
    folders = above.submodule_search_locations if above else None
    return None if folders is None else PathFinder.find_spec(name, folders)


def is_users_module(spec: ModuleSpec | None) -> bool:
    """Return whether a module is a file of the user's."""
    return spec is not None and spec.has_location and spec.origin is not None and is_users_file(spec.origin)


def is_users_file(file: str | Path) -> bool:
    """Return whether a file is neither part of Python, nor installed, nor one of our packages'."""
    path = Path(file)
    ours = any(path.is_relative_to(ROOT / name) for name in PACKAGES)
    return path.is_file() and not ours and not installed(path)


def would_lie_at(name: str) -> Iterator[Path]:
    """Yield the paths at which Python would look for a module of the user's, which is nowhere."""
    parent, _, last = name.rpartition(".")
    above = locate(parent) if parent else None
    if parent:
        folders = (above.submodule_search_locations or []) if above and is_users_module(above) else []
    else:
        folders = [folder for folder in sys.path if not installed(Path(folder))]
    for folder in folders:
        yield Path(folder).absolute() / f"{last}.py"
        yield Path(folder).absolute() / last / "__init__.py"


def installed(path: Path) -> bool:
    """Return whether a file or folder is part of Python or of what is installed."""
    return bool(INSTALLED_PARTS & set(path.parts)) or any(map(path.is_relative_to, INSTALLED))


@lru_cache(maxsize=1024)
def imported_names(content: bytes, package: str) -> frozenset[str]:
    """Return the names of all modules that the import statements of a file may mean, with the packages around them.

    Args:
        content: of the file; one that is no Python names nothing.
        package: the package that relative names start from.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # it leaves the package, and would fail
                start = resolve_name("." * node.level + (node.module or ""), package)
                names |= {f"{start}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names)
    return frozenset(".".join(each[:length]) for each in parts for length in range(1, len(each) + 1))


def global_names(name: str) -> set[str]:
    """Return the names of the modules that a module's global names hold, or hold classes or functions of."""
    values = list(vars(sys.modules[name]).values()) if name in sys.modules else []
    modules = {value.__name__ for value in values if ismodule(value)}
    owners = {getattr(value, "__module__", None) for value in values if isclass(value) or isroutine(value)}
    return modules | {owner for owner in owners if isinstance(owner, str)}


def loaded_by_path(namespaces: list[dict[str, object]]) -> list[Path]:
    """Find the user's files that `sys.modules` does not list, and of which global names hold modules or their parts.

    Args:
        namespaces: global names, by their names; those of the files that are found are added.
    """
    known = {id(vars(module)) for module in sys.modules.values() if ismodule(module)}
    found: list[Path] = []
    for namespace in namespaces:  # which grows meanwhile
        for other in chain.from_iterable(map(global_names_behind, list(namespace.values()))):
            file = other.get("__file__") if id(other) not in known else None
            if isinstance(file, str) and is_users_file(file):
                known.add(id(other))
                namespaces.append(other)
                found.append(Path(file))
    return found


def global_names_behind(value: object, depth: int = 0) -> Iterator[dict[str, object]]:
    """Yield the global names of the modules that a value is, or comes from.

    Args:
        value: a module, function, class or other object, or a container of these.
        depth: how many containers are around it.
    """
    if ismodule(value):
        yield vars(value)
    elif isfunction(value):
        yield value.__globals__
    elif isclass(value):
        for cls in value.__mro__:
            yield from (part.__globals__ for part in vars(cls).values() if isfunction(part))
    elif isinstance(value, dict | list | tuple | set | frozenset):
        items = value.values() if isinstance(value, dict) else value
        for item in list(items) if depth < NESTED else []:
            yield from global_names_behind(item, depth + 1)
    else:
        yield from global_names_behind(type(value), depth)


def check_found_beside(name: str, plugin: Path, file: Path) -> None:
    """Refuse the import of a module that lies beside the plugin if Python finds another one of its name.

    Args:
        name: of the module.
        plugin: the plugin's file.
        file: which imports the module.

    Raises:
        ValueError: naming both.
    """
    place = folder_of(plugin).joinpath(*name.split("."))
    beside = next(filter(Path.is_file, (place / "__init__.py", place.with_name(f"{place.name}.py"))), None)
    if beside is None:
        return
    spec = locate(name)
    if spec and spec.has_location and spec.origin and Path(spec.origin).read_bytes() == beside.read_bytes():
        return
    found = spec.origin if spec and spec.origin else f"another {name.partition('.')[0]}"
    raise ValueError(
        f"plugin {plugin}: {file.name} imports {name}, and {beside} lies beside the plugin, but Python finds {found} "
        "under this name; rename yours"
    )
