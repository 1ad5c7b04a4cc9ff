"""A run's folder as an archive: how a run travels to a machine that shares no storage with the driver, and back."""

import re
from pathlib import Path

from harness.store.run_folder import RunFolder, write_atomically

Archive = dict[str, bytes]
"""The files of one run's folder by name."""

STAY = ("claim",)
"""What says who works on a run is of no use on another machine."""

PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)


class ArchiveError(Exception):
    """An archive that must not be unpacked."""


def pack(folder: RunFolder, *, without: frozenset[str] = frozenset()) -> Archive:
    """Read a run's folder, {} if there is none.

    Its files may be replaced meanwhile: each one is whole, and the result is there only with what it was made of.

    Args:
        folder: the run's.
        without: names of files to leave out.
    """
    try:
        paths = [path for path in folder.path.iterdir() if travels(path) and path.name not in without]
    except FileNotFoundError:
        return {}
    # The result is written last, so it is read first: the other files are then no older than it.
    paths.sort(key=lambda path: path != folder.result)
    archive: Archive = {}
    for path in paths:
        try:
            archive[path.name] = path.read_bytes()
        except FileNotFoundError:  # removed since it was listed, as the progress is at a run's end
            continue
    return archive


def travels(path: Path) -> bool:
    """Say whether a file is part of the run: no claim, and nothing half-written."""
    return path.is_file() and is_content(path.name)


def is_content(name: str) -> bool:
    """Say whether a name can be that of a run's file."""
    return bool(PLAIN.fullmatch(name)) and name.partition(".")[0] not in STAY


def unpack(archive: Archive, folder: RunFolder, *, whole: bool) -> None:
    """Write an archive's files into a run's folder, each atomically and the result last.

    A kill on the way leaves a folder that is not finished and can be gone on from.

    Args:
        archive: the files.
        folder: the run's.
        whole: the archive is all of the run: a progress or failure that it does not hold is removed.

    Raises:
        ArchiveError: if a name is none of a plain file inside the folder; nothing is written then.
    """
    for name in archive:
        if not is_content(name):
            raise ArchiveError(f"run {folder.key[:12]}: its archive holds {name!r}, which is no file of a run's folder")
    last = folder.result.name
    for name in sorted(archive, key=lambda name: name == last):
        if name == last and whole:
            remove_outdated(archive, folder)
        content = archive[name]
        write_atomically(folder.path / name, lambda file, content=content: file.write(content), durable=whole)  # type: ignore[misc]
    if whole:
        remove_outdated(archive, folder)


def remove_outdated(archive: Archive, folder: RunFolder) -> None:
    """Remove the progress and the failure of an earlier try."""
    for path in (folder.progress, folder.failure):
        if path.name not in archive:
            path.unlink(missing_ok=True)
