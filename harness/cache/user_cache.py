"""A cache on disk for each user. An entry is valid while the files and code that it was computed from are unchanged.

Everything in it can be computed again, so the folder may be removed at any time. If the folder cannot be read or
written, nothing is cached.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

ROOT = Path(__file__).parents[2]
PACKAGES = ("methods", "models", "data", "harness", "analysis")
"""The folders of `ROOT` whose files decide what is computed."""
DEPENDENCIES = ("torch", "torchvision", "optuna", "pydantic", "scikit-learn")
"""Packages whose versions decide, too, whether a study is right."""
ENTRY_POINT_GROUP = "economical_ensembles.methods"
"""The entry-point group in which an installed package names its methods."""
ENTRY_NAME = re.compile(r"(plan|list|digest)-[0-9a-f]{1,40}\.json")
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST = 200
"""How many entries are kept; the ones that were not used for longest go first."""


def folder() -> Path:
    """Return the folder of the cache: $ECON_CACHE, else the one that the system gives each user's programs."""
    return Path(os.environ.get("ECON_CACHE") or user_cache_path("economical-ensembles", appauthor=False))


def entry_key(kind: str, *parts: Any) -> str:
    """Return the name of an entry.

    Args:
        kind: of the entry, the beginning of its name.
        parts: JSON values that decide its content, besides the installed code.
    """
    text = json.dumps([code_fingerprint(), *parts], sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def read_entry(key: str) -> Any:
    """Return the value of an entry; None if there is none, or a file that it was computed from has changed."""
    path = folder() / f"{key}.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if all(file_fingerprint(Path(file)) == found for file, found in entry["files"].items()):
            os.utime(path)
            return entry["value"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # missing, unreadable or damaged: it is computed again
    return None


def write_entry(key: str, value: Any, files: Iterable[Path] = (), absent: Iterable[Path] = ()) -> None:
    """Keep a value.

    Args:
        key: what `entry_key` returned.
        value: JSON values.
        files: files and folders that the value was computed from.
        absent: files that are not there, and on which the value would depend.
    """
    path = folder() / f"{key}.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError, TypeError, ValueError):  # a value that JSON cannot hold is not kept either
        entry = {"value": value, "files": {str(file.absolute()): file_fingerprint(file) for file in files}}
        if not all(entry["files"].values()) or any(map(file_fingerprint, absent := list(absent))):
            return
        entry["files"] |= {str(file): [] for file in absent}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entry), encoding="utf-8")
        temporary.replace(path)
        remove_oldest()


class DigestCache:
    """The digests of data files, by the fingerprint under which `data.digest` asks for them.

    They do not depend on the installed code, so that they outlive its changes.
    """

    def get(self, fingerprint: str) -> str | None:
        """Return the digest of files with this fingerprint; None if it is not known."""
        found = read_entry(self.key(fingerprint))
        return found if isinstance(found, str) and SHA256.fullmatch(found) else None

    def __setitem__(self, fingerprint: str, digest: str) -> None:
        """Keep the digest of files with this fingerprint."""
        write_entry(self.key(fingerprint), digest)

    def key(self, fingerprint: str) -> str:
        """Return the name of the entry that holds a digest."""
        return f"digest-{fingerprint[:40]}"


def remove_oldest() -> None:
    """Keep the `MOST` entries that were used last."""
    own = (
        path for path in folder().glob("*.json") if ENTRY_NAME.fullmatch(path.name)
    )  # the folder may hold others' files
    entries = sorted(own, key=lambda path: path.stat().st_mtime)
    for path in entries[: max(len(entries) - MOST, 0)]:
        path.unlink(missing_ok=True)


def file_fingerprint(path: Path) -> list[Any]:
    """Return what changes with the content of a file, or with any file below a folder; [] if it is not there.

    A file of up to a megabyte counts by its content, a larger one by its size, times and inode.
    """
    try:
        if path.is_dir():
            return [folder_fingerprint(path)]
        if path.stat().st_size <= 1 << 20:
            return [hashlib.sha256(path.read_bytes()).hexdigest()]
        return stat_of(path)
    except OSError:
        return []


def folder_fingerprint(path: Path) -> str:
    """Return a hash of the names, sizes, times and inodes of all files below a folder."""
    found = hashlib.sha256()
    for parent, folders, names in os.walk(path, followlinks=True):
        folders.sort()
        for name in sorted(names):
            try:
                row = stat_of(f"{parent}/{name}")
            except OSError as error:
                row = [error.errno]
            found.update(os.fsencode(f"{parent}/{name}\0{row}\n"))
    return found.hexdigest()


def stat_of(path: Path | str) -> list[Any]:
    """Return a file's size, its times of modification and of change in nanoseconds, and its inode.

    A file that is replaced by an older one, or whose time of modification is set back, has another time of change.
    """
    found = os.stat(path)  # noqa: PTH116 - a Path takes twice as long, which shows for 100,000 files
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


@cache
def method_entry_points() -> tuple[EntryPoint, ...]:
    """Return the methods that installed packages name; looking for them reads the metadata of every package."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


@cache
def code_fingerprint() -> str:
    """Return a hash of the installed code: our files, the versions of dependencies, the files of others' methods."""
    files = (
        path for name in PACKAGES for end in ("*.py", "*.yaml", "*.json") for path in sorted((ROOT / name).rglob(end))
    )
    ours = [[str(path), *stat_of(path)] for path in files]
    theirs = [[point.name, point.value, package_fingerprint(point.module)] for point in method_entry_points()]
    versions = [installed_version(name) for name in DEPENDENCIES]
    return hashlib.sha256(json.dumps([sys.version, ours, sorted(theirs), versions]).encode()).hexdigest()


def package_fingerprint(module: str) -> list[Any]:
    """Return what changes with the files of the top-level package that holds a module; [] if there is none."""
    found = find_spec(module.partition(".")[0])
    if found is None or found.origin is None:
        return []
    file = Path(found.origin)
    return file_fingerprint(file.parent if file.name == "__init__.py" else file)


def installed_version(name: str) -> str:
    """Return the version of an installed package; "" if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
