"""Packs a run folder into an archive, to send it between the driver and a machine without shared storage."""

import re
from pathlib import Path

from harness.store.run_folder import RunFolder, write_atomically

Archive = dict[str, bytes]
"""The contents of the files of one run folder, by name."""

EXCLUDED = ("claim",)
"""First parts of file names that are not packed. Claims have no meaning on another machine."""

FILE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""A name without folders that does not begin with a dot."""


class ArchiveError(Exception):
    """The archive must not be unpacked."""


def pack(folder: RunFolder, *, without: frozenset[str] = frozenset()) -> Archive:
    """Read the files of a run folder. Return {} if there is no such folder.

    The files may be replaced meanwhile. Each packed file is complete all the same, and a packed result never comes with
    files that are older than it.

    Args:
        folder: of the run.
        without: names of files to leave out.
    """
    try:
        paths = [path for path in folder.path.iterdir() if is_packed(path) and path.name not in without]
    except FileNotFoundError:
        return {}
    # A run writes its result last. Read first, the result is no newer than the other packed files.
    paths.sort(key=lambda path: path != folder.result)
    archive: Archive = {}
    for path in paths:
        try:
            archive[path.name] = path.read_bytes()
        except FileNotFoundError:  # removed since it was listed, such as the progress when a run ends
            continue
    return archive


def is_packed(path: Path) -> bool:
    """Check whether a path is a file to pack: neither a claim nor a temporary file."""
    return path.is_file() and is_run_file(path.name)


def is_run_file(name: str) -> bool:
    """Check whether a name may be that of a packed file."""
    return bool(FILE_NAME.fullmatch(name)) and name.partition(".")[0] not in EXCLUDED


def unpack(archive: Archive, folder: RunFolder, *, whole: bool) -> None:
    """Write the files of an archive into a run folder, each atomically and the result last.

    A kill in between leaves an unfinished run folder from which the run can resume.

    Args:
        archive: the files.
        folder: of the run.
        whole: whether the archive has all files of the run. If so, a progress or failure file that it does not have is
            removed.

    Raises:
        ArchiveError: if a name is not that of a file directly inside the folder. Nothing is written then.
    """
    for name in archive:
        if not is_run_file(name):
            raise ArchiveError(f"run {folder.key[:12]}: its archive has {name!r}, which is not a file of a run folder")
    last = folder.result.name
    for name in sorted(archive, key=lambda name: name == last):
        if name == last and whole:
            remove_outdated(archive, folder)
        content = archive[name]
        write_atomically(folder.path / name, lambda file, content=content: file.write(content), durable=whole)  # type: ignore[misc]
    if whole:
        remove_outdated(archive, folder)


def remove_outdated(archive: Archive, folder: RunFolder) -> None:
    """Remove the progress and failure files of an earlier attempt, unless the archive has them."""
    for path in (folder.progress, folder.failure):
        if path.name not in archive:
            path.unlink(missing_ok=True)
