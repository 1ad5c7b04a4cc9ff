"""The states of trunks on the disk: kept within a budget."""

from collections.abc import Collection
from pathlib import Path

from harness.planning.schedule import Schedule
from harness.planning.trunks import FOLDER
from harness.store.run_folder import RunFolder


def awaited(schedule: Schedule) -> set[str]:
    """List the trunks that runs which have not ended go on from."""
    left = [*schedule.waiting, *schedule.running, *schedule.elsewhere]
    return {trunk for key in left for trunk in schedule.runs[key].trunks[:1]}


def keep_within(root: Path, most: float, needed: Collection[str]) -> list[str]:
    """Remove states until all that are left fit into a budget; a run whose trunk is gone trains those epochs itself.

    Those that no run waits for go first, and of these the oldest.

    Args:
        root: the folder of run folders.
        most: the budget in bytes.
        needed: keys of trunks that runs wait for.

    Returns:
        The keys of those that were removed.
    """
    found = []
    for path in (root / FOLDER).glob("*/checkpoint.pt"):
        key = path.parent.relative_to(root).as_posix()
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # removed by another driver
        found.append((key in needed, status.st_mtime, key, status.st_size))
    total, removed = sum(size for *_, size in found), []
    for _, _, key, size in sorted(found):
        if total <= most:
            break
        folder = RunFolder(root, key)
        if folder.finished and not folder.is_claimed():
            folder.checkpoint.unlink(missing_ok=True)
            total -= size
            removed.append(key)
    return removed
