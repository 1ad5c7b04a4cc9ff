"""Reads arrays of .npz files after a look at their headers: what cannot be used, or would fill the memory, is not read.

Nothing in a file is executed: arrays of Python objects are refused.
"""

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MOST_BYTES = 8 * 2**30
"""Bytes of all arrays of a file together that are read into memory at most."""
READ_ERRORS = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""Exceptions for members that are damaged, encrypted (RuntimeError), or compressed in an unknown way (a kind of it)."""
HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Array = NDArray[np.generic]


@dataclass
class NpzArrays:
    """What was read of a .npz file.

    Attributes:
        names: Names of all arrays in the file.
        arrays: The wanted arrays, as far as they can be read.
        problems: What is wrong with the others, each with the array's name.
    """

    names: list[str] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def held(self) -> str:
        """The names of all arrays, for messages."""
        return ", ".join(map(printable, self.names)) or "no arrays"


def read_npz(file: Path, wanted: Callable[[str], bool], expected: str) -> NpzArrays:
    """Read some arrays of a .npz file.

    Args:
        file: The file.
        wanted: Whether an array of a name is read.
        expected: What the file should be, for messages.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a .npz file, or its arrays together would take too much memory.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected {expected}")
    with file.open("rb") as content:
        is_archive = zipfile.is_zipfile(content)
    if not is_archive:
        raise ValueError(f"{file}: found something that is not a .npz file; write it with numpy.savez")
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_members(file, archive, wanted)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: the file is damaged ({error}); write it again with numpy.savez") from error


def _read_members(file: Path, archive: zipfile.ZipFile, wanted: Callable[[str], bool]) -> NpzArrays:
    """Do the work of `read_npz` with the opened archive: look at all headers first."""
    found, sizes = NpzArrays(), {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in found.names:
            found.problems.append(f"{printable(name)}: stands in the file twice")
        found.names.append(name)
        if wanted(name):
            try:
                sizes[member] = check_header(archive, member)
            except READ_ERRORS as error:
                found.problems.append(_unreadable(name, error))
    if sum(sizes.values()) > MOST_BYTES:
        raise ValueError(
            f"{file}: its arrays have more than {MOST_BYTES // 2**30} GiB, which are not read into memory; keep the "
            "images as files, for imagefolder:PATH"
        )
    for member in sizes:
        name = member.filename.removesuffix(".npy")
        try:
            with archive.open(member) as content:
                found.arrays[name] = npy.read_array(content, allow_pickle=False)
        except READ_ERRORS as error:
            found.problems.append(_unreadable(name, error))
    return found


def check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the bytes that an array takes in memory, after a look at its header only.

    Raises:
        ValueError: If it holds Python objects, or another number of bytes than its header says.
        RuntimeError, OSError, EOFError, BadZipFile, zlib.error, LZMAError: If it cannot be read.
    """
    with archive.open(member) as content:
        try:
            read = HEADER_READERS[npy.read_magic(content)]
        except (ValueError, KeyError) as error:
            raise ValueError("it is not an array in the .npy format") from error
        shape, _, dtype = read(content)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        size, held = math.prod(shape) * dtype.itemsize, member.file_size - content.tell()
    if any(length < 0 for length in shape) or size != held:
        raise ValueError(f"it holds {held} bytes, and its header describes another number of them")
    return size


def printable(name: str) -> str:
    """Return a name as it is if it can be printed, else with escapes."""
    return name if name.isprintable() else repr(name)


def _unreadable(name: str, error: Exception) -> str:
    return f"{printable(name)}: cannot be read ({error}); expected a plain array of numbers, as numpy.savez writes it"
