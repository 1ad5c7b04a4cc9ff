"""Who works on a run: claims that hold between processes, and between machines that share the folder.

In a run's folder lie files `claim.1`, `claim.2`, …, of which the highest counts. An empty one is free; another one
names its owner. To claim a run is to make the next number by a hard link, which the file system lets only one do. A
number that was used is never the highest again: who takes over what he saw abandoned cannot hit a later claim.

An owner gives signs of life by the time stamp of its claim. Clocks of machines differ, so nobody compares that time
with his own: an observer sees whether it *changes*, and counts the seconds by his own clock (`Lookout`).

An owner that was stopped for long may have been given up. It finds out before it replaces a file of the folder
(`confirm`). What happens in the instant between the two is harmless: a run's files are a function of its spec.
"""

import errno
import json
import os
import secrets
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

HEARTBEAT_SECONDS = 5.0
"""Seconds between two signs of life of an owner."""
HEARTBEAT_TIMEOUT = 60.0
"""Seconds without a sign of life, by the observer's clock, after which an owner is taken for dead.

An owner on the same machine is known to be dead as soon as its process is. This is for the others, and for processes
that are stopped; it is many beats, for a server of files may hang that long and a busy process be late.
"""
PROC = Path("/proc")
FILE_GONE_ERRNOS = (errno.ENOENT, errno.ESTALE)
"""What the system says of a file that was removed, here or by another machine."""


class ClaimError(Exception):
    """Another process works on the run; no failure of the run."""


class AlreadyClaimedError(ClaimError):
    """The run is claimed."""


class ClaimLostError(ClaimError):
    """The run was claimed by this process, which gave no sign of life for so long that another one took it over."""


@dataclass(frozen=True)
class Owner:
    """The process that works on a run.

    Attributes:
        host: its machine's name, for people.
        machine: what tells machines, their starts, and containers with process numbers of their own, apart.
        process: its number.
        started: when the process started, in ticks since the machine did; None where the system does not say.
        driver: the `econ run` it works for, for people.
        since: when it claimed the run, in seconds since 1970 by its own clock; for people.
        token: drawn for this one claim.
    """

    host: str = "an unknown machine"
    machine_id: str = ""
    process: int = 0
    started: int | None = None
    driver: str = ""
    since: float = 0.0
    token: str = ""

    @classmethod
    def current_process(cls, driver: str) -> "Owner":
        """Name this process."""
        process = os.getpid()
        token = secrets.token_hex(16)
        return cls(
            socket.gethostname(), machine_id(), process, process_start_ticks(process), driver, time.time(), token
        )

    def is_dead(self) -> bool:
        """Whether its process is known to have ended: it ran on this machine, and is there no more."""
        return self.machine == machine_id() and not is_process_alive(self.process, self.started)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class ClaimState(NamedTuple):
    """The claim that counts in a folder, as it was seen.

    Attributes:
        number: of the claim; 0 if the folder was never claimed.
        owner: None if it is free.
        beat: the time stamp that its signs of life change.
    """

    number: int
    owner: Owner | None
    heartbeat: int


class Claim:
    """A claim of this process. It gives signs of life until it is released, or its process ends or is stopped."""

    def __init__(self, folder: Path, number: int) -> None:
        """Begin to give signs of life.

        Args:
            folder: the run's.
            number: of the claim, which this process has made.
        """
        self.folder, self.path, self.next = folder, claim_path(folder, number), claim_path(folder, number + 1)
        self.released = threading.Event()
        OWN_CLAIMS[folder] = self
        threading.Thread(target=self.send_heartbeats, name=f"claim of {folder.name}", daemon=True).start()

    def send_heartbeats(self) -> None:
        """Give signs of life; one that cannot be given now is followed by others."""
        while not self.released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)

    def check_still_owner(self) -> None:
        """Make sure that the run is still this process's.

        Raises:
            LostError: if another process has taken it over.
        """
        try:
            os.utime(self.path)  # asks the server of files, where `exists` may answer from memory
            lost = self.next.exists()
        except OSError as error:
            if error.errno not in FILE_GONE_ERRNOS:
                raise
            lost = True
        if lost:
            raise ClaimLostError(f"another process took it over while this one ({os.getpid()}) was silent")

    def release(self) -> None:
        """Let others claim the run."""
        self.released.set()
        if OWN_CLAIMS.get(self.folder) is self:
            del OWN_CLAIMS[self.folder]
        try:
            os.truncate(self.path, 0)  # not removed, for its number must not come again; and a full disk allows it
        except OSError:
            UNRELEASED_FILES.add(
                self.path
            )  # silent from now on, which frees it for others later, and for this process at once


OWN_CLAIMS: dict[Path, Claim] = {}
"""The claims of this process, by folder."""
UNRELEASED_FILES: set[Path] = set()
"""Files of claims that this process gave up where the disk did not allow to free them."""


def check_still_owner(folder: Path) -> None:
    """Make sure that a folder which this process has claimed is still its own; others are nobody's concern.

    Raises:
        LostError: if another process has taken it over.
    """
    if claim := OWN_CLAIMS.get(folder):
        claim.check_still_owner()


def acquire_claim(folder: Path, driver: str = "") -> Claim:
    """Claim a run that is free, or whose owner is known to be dead.

    Args:
        folder: the run's; made if there is none.
        driver: for whom, in words.

    Raises:
        TakenError: if another process works on it, as far as one look can tell.
        OSError: if the folder cannot be written, or its file system has no hard links.
    """
    while True:
        seen = read_claim(folder)
        if seen.owner and not seen.owner.is_dead() and claim_path(folder, seen.number) not in UNRELEASED_FILES:
            raise AlreadyClaimedError(f"{seen.owner} works on it")
        if write_claim(folder, seen.number + 1, json.dumps(asdict(Owner.current_process(driver)))):
            return Claim(folder, seen.number + 1)


def read_claim(folder: Path) -> ClaimState:
    """Look which claim counts in a folder; nothing is changed."""
    while number := max(claim_numbers(folder), default=0):
        try:
            with claim_path(folder, number).open() as file:  # opening asks the server of files for what is new
                return ClaimState(number, parse_owner(file.read()), os.fstat(file.fileno()).st_mtime_ns)
        except OSError as error:
            if error.errno not in FILE_GONE_ERRNOS:
                raise
            time.sleep(0.01)  # a higher one came between
    return ClaimState(0, None, 0)


def parse_owner(text: str) -> Owner | None:
    """Read a claim; of one that a crash of the disk spoilt, nothing but its signs of life can be known."""
    if not text:
        return None
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return Owner()


def write_claim(folder: Path, number: int, text: str) -> bool:
    """Make a claim with a number, or a free one with an empty text; of all who try, one succeeds.

    Returns:
        Whether it was this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = claim_path(folder, number), folder / f".claim.{secrets.token_hex(8)}.tmp"
    try:
        temporary.write_text(text)
        make_hard_link(temporary, path)
    except FileNotFoundError:
        return False  # the owner that came first swept the temporary file away
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
    """Whether a link was made although the system says that it was not: a server's answer may get lost."""
    with suppress(FileNotFoundError):
        return temporary.stat().st_nlink > 1
    return False


def make_hard_link(temporary: Path, path: Path) -> None:
    """Make a hard link, or say that the file system has none."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            reason = f"{error.strerror}: runs are claimed by hard links; choose --runs on a file system that has them"
            raise OSError(error.errno, reason, str(path)) from error
        raise


def free_if_owner_dead(folder: Path) -> None:
    """Free a claim whose owner is known to be dead, so that other machines need not wait for its silence."""
    seen = read_claim(folder)
    if seen.owner and seen.owner.is_dead():
        write_claim(folder, seen.number + 1, "")


class ClaimObserver:
    """Watches claims of others, and gives up those whose owners are dead or silent."""

    def __init__(self, timeout: float | None = None) -> None:
        """Start to watch.

        Args:
            silence: the seconds after which an owner is given up; None for `SILENCE`.
        """
        self.timeout = HEARTBEAT_TIMEOUT if timeout is None else timeout
        self.last_states: dict[Path, tuple[ClaimState, float]] = {}

    def is_free(self, folder: Path) -> bool:
        """Whether the run can be claimed now; to be asked again and again."""
        found, now = read_claim(folder), time.monotonic()
        if found.owner is None or found.owner.is_dead():
            self.last_states.pop(folder, None)
            return True
        before, since = self.last_states.setdefault(folder, (found, now))
        if found != before:
            self.last_states[folder] = (found, now)
        elif now - since >= self.timeout:
            del self.last_states[folder]
            write_claim(folder, found.number + 1, "")  # if another observer came first, it is free as well
            return True
        return False


def claim_path(folder: Path, number: int) -> Path:
    """Name the file of a claim."""
    return folder / f"claim.{number}"


def claim_numbers(folder: Path) -> set[int]:
    """List the numbers of a folder's claims."""
    return {int(path.suffix[1:]) for path in folder.glob("claim.*") if path.suffix[1:].isdigit()}


@cache
def machine_id() -> str:
    """Tell this machine since its last start, and this space of process numbers, from all others."""
    try:
        start = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def process_start_ticks(process: int) -> int | None:
    """Give when a process started, in ticks since the machine did; None if it ended, or the system does not say."""
    try:
        fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie has ended; field 22 of `man 5 proc_pid_stat`


def is_process_alive(process: int, started: int | None) -> bool:
    """Whether a process of this machine still runs; another one with its number counts as none where that shows."""
    if started is not None:
        try:
            return process_start_ticks(process) == started
        except OSError:
            return True  # as far as is known
    if os.name != "posix":
        return True  # as far as is known
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
