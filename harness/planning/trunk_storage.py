"""Keeps the saved states of trunks within a limit of disk space."""

from collections.abc import Collection
from pathlib import Path

from harness.planning.schedule import Schedule
from harness.planning.trunks import FOLDER
from harness.store.run_folder import RunFolder


def needed_trunks(schedule: Schedule) -> set[str]:
    """Return the keys of the trunks from which unfinished runs are forked."""
    unfinished = [*schedule.waiting, *schedule.running, *schedule.elsewhere]
    return {trunk for key in unfinished for trunk in schedule.runs[key].trunks[:1]}


def limit_trunk_storage(root: Path, limit: float, needed: Collection[str]) -> list[str]:
    """Remove states of trunks until the rest fits into a limit.

    States that no run needs are removed first, and among these the oldest. A run whose trunk is removed trains those
    epochs itself.

    Args:
        root: the folder of run folders.
        limit: the limit in bytes.
        needed: keys of the trunks that runs still need.

    Returns:
        The keys of the trunks whose states were removed.
    """
    found = []
    for path in (root / FOLDER).glob("*/checkpoint.pt"):
        key = path.parent.relative_to(root).as_posix()
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another driver removed it
        found.append((key in needed, status.st_mtime, key, status.st_size))
    total, removed = sum(size for *_, size in found), []
    for _, _, key, size in sorted(found):
        if total <= limit:
            break
        folder = RunFolder(root, key)
        if folder.finished and not folder.is_claimed():
            folder.checkpoint.unlink(missing_ok=True)
            total -= size
            removed.append(key)
    return removed
