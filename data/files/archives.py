"""Archives, unpacked whole or not at all, and never outside their folder."""

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from data.files.download import hold_lock

ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    BadGzipFile,
    zlib.error,
    LZMAError,
    EOFError,
    NotImplementedError,
)
"""What the standard library raises for archives that are cut short or altered."""


class ArchiveMember(NamedTuple):
    """A file or folder of an archive."""

    name: str
    plain: bool
    extract: Callable[[Path], object]


def unpack(archive: Path, folder: Path, *, part: str = "") -> Path:
    """Unpack a tar (packed in any way) or zip archive into a folder, unless the folder is there already.

    It is unpacked beside the folder and gets its name at the end, so that a folder of that name is always whole.
    Several processes may ask for the same folder: one unpacks it.

    Args:
        archive: The archive.
        folder: Where its contents are to be; nothing is done if it exists.
        part: The folder of the archive that is wanted, without its own name; "" for all.

    Returns:
        The folder.

    Raises:
        ValueError: If the archive is damaged, is no archive, has no such part, or holds anything but files and folders
            that stay inside; names the archive and its member. Nothing is left behind.
        FileNotFoundError: If there is no such archive.
        OSError: If the disk has no room, or the folder cannot be written to.
    """
    folder = folder.expanduser()
    if folder.is_dir():
        return folder
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such archive")
    with hold_lock(folder, f"unpacks {archive.name}"):
        if folder.is_dir():
            return folder
        unfinished = folder.with_name(f".{folder.name}.unpacking")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir()
        try:
            with open_archive(archive) as found:
                for member in found:
                    check_member(archive, member)
                    member.extract(unfinished)
            if not (unfinished / part).is_dir():
                raise ValueError(f"{archive}: expected a folder {part!r} in it, found none")
            if hasattr(os, "sync"):
                os.sync()  # the contents before the name, should the power fail
            (unfinished / part).rename(folder)
        except ARCHIVE_ERRORS as error:
            raise ValueError(f"{archive}: the archive is damaged ({error}); remove it, and get it again") from error
        except OSError as error:
            raise OSError(f"{archive}: cannot be unpacked to {folder} ({error})") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def check_member(archive: Path, member: ArchiveMember) -> None:
    """Refuse a member that would be put outside the folder, by its name or as a link.

    Raises:
        ValueError: Naming the archive and the member.
    """
    path = PureWindowsPath(member.name)  # splits at both kinds of slash, and knows drives
    outside = path.anchor or ".." in path.parts
    if outside or not member.plain:
        problem = "points outside its folder" if outside else "is a link or a device, expected files and folders only"
        raise ValueError(f"{archive}: its member {member.name!r} {problem}; do not use this archive")


@contextmanager
def open_archive(archive: Path) -> Iterator[Iterator[ArchiveMember]]:
    """Open an archive and go through its members.

    Raises:
        ValueError: If it is neither a tar nor a zip archive.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield (
                ArchiveMember(info.filename, not stat.S_ISLNK(info.external_attr >> 16), _from_zip(zipped, info))
                for info in zipped.infolist()
            )
        return
    with _open_tar(archive) as packed:
        yield (ArchiveMember(info.name, info.isfile() or info.isdir(), _from_tar(packed, info)) for info in packed)
        while packed.fileobj and packed.fileobj.read(1 << 20):
            pass  # the checksum of what was compressed stands at its end, which tarfile does not read


def _open_tar(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive)
    except tarfile.ReadError as error:
        raise ValueError(f"{archive}: found neither a tar nor a zip archive, or a damaged one ({error})") from error


def _from_zip(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[Path], object]:
    return lambda folder: packed.extract(info, folder)


def _from_tar(packed: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[Path], object]:
    return lambda folder: packed.extract(info, folder, filter="data")
