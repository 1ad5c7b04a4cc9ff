"""Keeps the saved states of trunks within a limit of disk space."""

from collections.abc import Collection, Iterable
from pathlib import Path

from harness.planning.schedule import Schedule
from harness.planning.trunks import FOLDER
from harness.store.run_folder import RunFolder


class NeededTrunks(set[str]):
    """Keys of the trunks whose states unfinished runs still use.

    Attributes:
        required: those among them that a run cannot train itself, because it starts from the state of another run.
    """

    def __init__(self, forked: Iterable[str], required: Iterable[str]) -> None:
        """Collect the trunks from which runs are forked, and those that runs require."""
        self.required = frozenset(required)
        super().__init__(self.required.union(forked))


def needed_trunks(schedule: Schedule) -> NeededTrunks:
    """Return the keys of the trunks whose states unfinished runs still use."""
    unfinished = [schedule.runs[key] for key in (*schedule.waiting, *schedule.running, *schedule.elsewhere)]
    forked = (trunk for planned in unfinished for trunk in planned.trunks[:1])
    required = (need for planned in unfinished for need in planned.needs if need.startswith(f"{FOLDER}/"))
    return NeededTrunks(forked, required)


def limit_trunk_storage(root: Path, limit: float, needed: Collection[str]) -> list[str]:
    """Remove states of trunks until the rest fits into a limit.

    States that no run needs are removed first, and among these the oldest. A run whose trunk is removed trains those
    epochs itself. A state that a run requires is never removed, even if the limit is then exceeded.

    Args:
        root: the folder of run folders.
        limit: the limit in bytes.
        needed: keys of the trunks that runs still need; those that they require, only if it is a `NeededTrunks`.

    Returns:
        The keys of the trunks whose states were removed.
    """
    required = needed.required if isinstance(needed, NeededTrunks) else ()
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
        if key not in required and folder.finished and not folder.is_claimed():
            folder.checkpoint.unlink(missing_ok=True)
            total -= size
            removed.append(key)
    return removed
