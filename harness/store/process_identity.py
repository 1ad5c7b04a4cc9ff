"""Identifies processes across machines, reboots and containers, and tells whether a process still runs."""

import os
import socket
import uuid
from functools import cache
from pathlib import Path

PROC = Path("/proc")


@cache
def machine_id() -> str:
    """Return an identifier of this machine, its current boot, and its namespace of process numbers."""
    try:
        start = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def process_start_ticks(process: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None if it ended or the system does not report it."""
    try:
        fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # a zombie has ended; field 22 of `man 5 proc_pid_stat`


def is_process_alive(process: int, started: int | None) -> bool:
    """Return whether a process of this machine still runs.

    A different process that reuses the number does not count, where the system reports start times.

    Args:
        process: process number.
        started: start of the process, in clock ticks since boot; None if unknown.
    """
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
