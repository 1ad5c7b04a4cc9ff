"""Claims: locks on run folders. They hold between processes, and between machines that share the folder.

A run folder contains the files `claim.1`, `claim.2`, …; only the highest number is valid. An empty claim file means
that the run is free. Otherwise the file names the owner. A process claims a run by creating the next number with a
hard link. The file system lets only one process create it. A used number never becomes the highest again, so taking
over an abandoned claim cannot overwrite a later claim.

An owner sends heartbeats: it updates the modification time of its claim file. Clocks of machines differ. Therefore an
observer only checks whether the time *changes*, and measures the seconds on its own clock (`claim_observer`).

A process that was suspended for a long time may have lost its claim. It checks this before it replaces a file of the
folder (`check_still_owner`). A loss between the check and the write is harmless, because a run's files depend only on
its spec.
"""

import errno
import json
import os
import re
import secrets
import socket
import stat
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from harness.store.damaged_files import NUMBER, say_damaged
from harness.store.process_identity import is_process_alive, machine_id, process_start_ticks

HEARTBEAT_SECONDS = 5.0
"""Seconds between two heartbeats of an owner."""
HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a heartbeat, on the observer's clock, after which an owner is considered dead.

The timeout is needed for owners on other machines and for suspended processes. An ended process on the same machine
is detected at once. The timeout spans many heartbeats, because a file server may hang and a busy process may be late.
"""
CLAIM_NUMBER = re.compile("[1-9][0-9]{0,17}")
FILE_GONE_ERRNOS = (errno.ENOENT, errno.ESTALE)
"""Error numbers of a file that was removed, by this machine or by another one."""


class ClaimError(Exception):
    """Another process works on the run. The run has not failed."""


class AlreadyClaimedError(ClaimError):
    """Another process holds the claim."""


class ClaimLostError(ClaimError):
    """This process held the claim and lost it: its heartbeats stopped for too long, and another process took over."""


@dataclass(frozen=True)
class Owner:
    """The process that works on a run.

    Attributes:
        host: name of the machine, for display.
        machine: identifies the machine, its current boot, and the namespace of its process numbers (a container may
            have its own).
        process: process number.
        started: start of the process, in clock ticks since boot; None where the system does not report it.
        driver: the `econ run` command that the process works for, for display.
        since: time of the claim, in seconds since 1970 on the owner's clock, for display.
        token: random and unique to this claim.
    """

    host: str = "an unknown machine"
    machine: str = ""
    process: int = 0
    started: int | None = None
    driver: str = ""
    since: float = 0.0
    token: str = ""

    @classmethod
    def current_process(cls, driver: str) -> "Owner":
        """Describe the current process."""
        process = os.getpid()
        token = secrets.token_hex(16)
        return cls(
            socket.gethostname(), machine_id(), process, process_start_ticks(process), driver, time.time(), token
        )

    def is_dead(self) -> bool:
        """Return whether the process ran on this machine and has ended."""
        return self.machine == machine_id() and not is_process_alive(self.process, self.started)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class ClaimState(NamedTuple):
    """The valid claim of a folder at one moment.

    Attributes:
        number: number of the claim; 0 if the folder was never claimed.
        owner: the owner; None if the run is free.
        heartbeat: modification time of the claim file, in nanoseconds. Heartbeats change it.
    """

    number: int
    owner: Owner | None
    heartbeat: int


class Claim:
    """A claim held by this process. A thread sends heartbeats until the claim is released or the process ends."""

    def __init__(self, folder: Path, number: int) -> None:
        """Start to send heartbeats.

        Args:
            folder: the run folder.
            number: number of the claim, which this process has created.
        """
        self.folder, self.path, self.next = folder, claim_path(folder, number), claim_path(folder, number + 1)
        self.released = threading.Event()
        OWN_CLAIMS[folder] = self
        threading.Thread(target=self.send_heartbeats, name=f"claim of {folder.name}", daemon=True).start()

    def send_heartbeats(self) -> None:
        """Send heartbeats until the claim is released. A failed heartbeat is skipped."""
        while not self.released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)

    def check_still_owner(self) -> None:
        """Check that this process still holds the claim.

        Raises:
            ClaimLostError: if another process has taken over the run.
        """
        try:
            os.utime(self.path)  # asks the file server, whereas `exists` may use a cached answer
            lost = self.next.exists()
        except OSError as error:
            if error.errno not in FILE_GONE_ERRNOS:
                raise
            lost = True
        if lost:
            raise ClaimLostError(f"another process took it over while this one ({os.getpid()}) sent no heartbeats")

    def release(self) -> None:
        """Release the claim, so that other processes can claim the run."""
        self.released.set()
        if OWN_CLAIMS.get(self.folder) is self:
            del OWN_CLAIMS[self.folder]
        try:
            os.truncate(self.path, 0)  # not removed: its number must not be reused; a full disk allows to truncate
        except OSError:
            UNRELEASED_FILES.add(self.path)


OWN_CLAIMS: dict[Path, Claim] = {}
"""The claims that this process holds, by folder."""
UNRELEASED_FILES: set[Path] = set()
"""Claim files that this process could not release, because the disk refused the write.

They get no more heartbeats, so other processes can claim the runs after the timeout. This process can do so at once.
"""


def check_still_owner(folder: Path) -> None:
    """Check that this process still holds its claim of a folder. A folder that it never claimed passes.

    Raises:
        ClaimLostError: if another process has taken over the run.
    """
    if claim := OWN_CLAIMS.get(folder):
        claim.check_still_owner()


def acquire_claim(folder: Path, driver: str = "") -> Claim:
    """Claim a run that is free, or whose owner is known to be dead.

    Args:
        folder: the run folder; it is created if it is missing.
        driver: description of the command that the process works for.

    Raises:
        AlreadyClaimedError: if another process holds the claim and is not known to be dead.
        OSError: if the folder cannot be written, or its file system has no hard links.
    """
    while True:
        refuse_obstacles(folder)
        seen = read_claim(folder)
        if seen.owner and not seen.owner.is_dead() and claim_path(folder, seen.number) not in UNRELEASED_FILES:
            raise AlreadyClaimedError(f"{seen.owner} works on it")
        if write_claim(folder, seen.number + 1, json.dumps(asdict(Owner.current_process(driver)))):
            return Claim(folder, seen.number + 1)


def read_claim(folder: Path) -> ClaimState:
    """Read the valid claim of a folder."""
    while number := max(claim_numbers(folder), default=0):
        try:
            with claim_path(folder, number).open(
                encoding="utf-8", errors="replace"
            ) as file:  # opening asks the file server for the newest content
                owner = parse_owner(file.read())
                if owner == Owner():
                    given_up = f"whoever holds it is given up after {HEARTBEAT_TIMEOUT:.0f} s without heartbeats"
                    say_damaged(claim_path(folder, number), "names no owner", given_up)
                return ClaimState(number, owner, os.fstat(file.fileno()).st_mtime_ns)
        except OSError as error:
            if error.errno not in FILE_GONE_ERRNOS:
                raise
            time.sleep(0.01)  # a higher number was created in the meantime
    return ClaimState(0, None, 0)


def parse_owner(text: str) -> Owner | None:
    """Parse the content of a claim file. A corrupt file gives an unknown owner, of which only heartbeats are known."""
    if not text:
        return None
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return Owner()
    sound = isinstance(owner.process, int) and isinstance(owner.started, int | None) and isinstance(owner.since, NUMBER)
    return owner if sound else Owner()


def write_claim(folder: Path, number: int, text: str) -> bool:
    """Create the claim file with a number; an empty text marks the run as free.

    Only one of the processes that create the same number succeeds.

    Returns:
        Whether this process succeeded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = claim_path(folder, number), folder / f".claim.{secrets.token_hex(8)}.tmp"
    try:
        temporary.write_text(text)
        make_hard_link(temporary, path)
    except FileNotFoundError:
        return False  # another process claimed the run first and removed the temporary file
    except FileExistsError:
        if not link_exists(temporary):
            return False
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # a full disk names no file, others the temporary one
        raise
    finally:
        with suppress(OSError):  # gone, or on a disk that has become read-only
            temporary.unlink()
    there = claim_numbers(folder)
    if max(there, default=number) > number:  # the number was used and removed before
        path.unlink(missing_ok=True)
        return False
    for earlier in sorted(there - {number}):
        claim_path(folder, earlier).unlink(missing_ok=True)
    return True


def link_exists(temporary: Path) -> bool:
    """Return whether a hard link of a file exists. A file server may create a link and still report an error."""
    with suppress(FileNotFoundError):
        return temporary.stat().st_nlink > 1
    return False


def make_hard_link(temporary: Path, path: Path) -> None:
    """Create a hard link.

    Raises:
        OSError: with an explanation if the file system has no hard links.
    """
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            reason = f"{error.strerror}: runs are claimed by hard links; choose --runs on a file system that has them"
            raise OSError(error.errno, reason, str(path)) from error
        raise


def free_if_owner_dead(folder: Path) -> None:
    """Release the claim of an owner that is known to be dead, so that other machines need not wait for the timeout."""
    seen = read_claim(folder)
    if seen.owner and seen.owner.is_dead():
        write_claim(folder, seen.number + 1, "")


def claim_path(folder: Path, number: int) -> Path:
    """Return the path of a claim file."""
    return folder / f"claim.{number}"


def claim_numbers(folder: Path) -> set[int]:
    """Return the numbers of a folder's claim files."""
    return {number for number, is_ours in find_claims(folder) if is_ours}


def find_claims(folder: Path) -> list[tuple[int, bool]]:
    """Return the numbers of what has the name of a claim, and whether it is a file of ours, no folder and no link."""
    try:
        with os.scandir(folder) as entries:
            return [
                (int(number), is_claim_file(entry))
                for entry in list(entries)
                if (number := entry.name.removeprefix("claim.")) != entry.name and CLAIM_NUMBER.fullmatch(number)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_claim_file(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry of a folder is a file, no folder and no link.

    One that was removed meanwhile counts as such: a higher number took its place, and a reader must look again.
    """
    try:
        return stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode)
    except OSError as error:
        if error.errno not in FILE_GONE_ERRNOS:
            raise
        return True


def refuse_obstacles(folder: Path) -> None:
    """Refuse folders and links that have the name of a claim: no claim could take their number.

    Raises:
        OSError: naming the first of them, and what to do.
    """
    for number, is_ours in find_claims(folder):
        if not is_ours:
            raise OSError(
                errno.EEXIST, "is in the way of a claim, and no file of ours: remove it", claim_path(folder, number)
            )
