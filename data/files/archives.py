"""Unpacks archives: completely or not at all, and never outside the target folder."""

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
"""Exceptions that the standard library raises for truncated or altered archives."""


class ArchiveMember(NamedTuple):
    """An entry of an archive.

    Attributes:
        name: Its path in the archive.
        plain: Whether it is a file or a folder, not a link or a device.
        extract: Writes it into a folder.
    """

    name: str
    plain: bool
    extract: Callable[[Path], object]


def unpack(archive: Path, folder: Path, *, part: str = "") -> Path:
    """Unpack a zip archive, or a tar archive with any compression, into a folder that does not exist yet.

    The archive is unpacked into a temporary folder, which is renamed at the end, so that the folder is always
    complete. If several processes ask for the same folder, one of them unpacks it.

    Args:
        archive: The archive.
        folder: The target folder. If it exists, nothing is done.
        part: Folder in the archive whose contents are wanted; "" for the whole archive.

    Returns:
        The folder.

    Raises:
        ValueError: If the file is damaged or no archive, does not hold the part, or has a member that is neither file
            nor folder or lies outside the target folder; names the archive and the member. Nothing is left behind.
        FileNotFoundError: If there is no such archive.
        OSError: If the disk is full, or the folder cannot be written to.
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
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
        unfinished.mkdir()
        try:
            with open_archive(archive) as found:
                for member in found:
                    check_member(archive, member)
                    member.extract(unfinished)
            if not (unfinished / part).is_dir():
                raise ValueError(f"{archive}: expected a folder {part!r} in it, found none")
            if hasattr(os, "sync"):
                os.sync()  # write the contents before the rename, in case the power fails
            (unfinished / part).rename(folder)
        except ARCHIVE_ERRORS as error:
            raise ValueError(f"{archive}: the archive is damaged ({error}); remove it, and get it again") from error
        except OSError as error:
            raise OSError(f"{archive}: cannot be unpacked to {folder} ({error})") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def check_member(archive: Path, member: ArchiveMember) -> None:
    """Check that a member is a file or a folder that stays inside the target folder.

    Raises:
        ValueError: If it is not; names the archive and the member.
    """
    path = PureWindowsPath(member.name)  # splits at both kinds of slash, and knows drives
    outside = path.anchor or ".." in path.parts
    if outside or not member.plain:
        problem = "points outside its folder" if outside else "is a link or a device, expected files and folders only"
        raise ValueError(f"{archive}: its member {member.name!r} {problem}; do not use this archive")


@contextmanager
def open_archive(archive: Path) -> Iterator[Iterator[ArchiveMember]]:
    """Open an archive and iterate over its members.

    Raises:
        ValueError: If the file is neither a tar nor a zip archive.
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
            pass  # read to the end, where the compressed data have their checksum, which tarfile does not read


def _open_tar(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive)
    except tarfile.ReadError as error:
        raise ValueError(f"{archive}: found neither a tar nor a zip archive, or a damaged one ({error})") from error


def _from_zip(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[Path], object]:
    return lambda folder: packed.extract(info, folder)


def _from_tar(packed: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[Path], object]:
    return lambda folder: packed.extract(info, folder, filter="data")
