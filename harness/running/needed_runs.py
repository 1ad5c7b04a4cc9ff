"""The finished runs and trunks that a run starts from, and the runs that its evaluation uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.store import checkpoint as checkpoints
from harness.store.checkpoint import CheckpointError
from harness.store.run_folder import RunFolder


class NeededRunError(Exception):
    """A run cannot start because a run that it needs is not finished, or its state is lost."""


def find_finished(root: Path, keys: Sequence[str]) -> list[RunFolder]:
    """Return the folders of finished runs and trunks.

    Args:
        root: the folder of run folders.
        keys: the keys of the runs and trunks.

    Raises:
        NeededRunError: if one of them is not finished.
    """
    folders = [RunFolder(root, key) for key in keys]
    for folder in folders:
        if not folder.finished:
            reason = folder.read_failure().get("reason", "it was not run")
            kind, _, digits = folder.key.rpartition("/")
            what = "trunk" if kind else "run"
            raise NeededRunError(f"it needs the {what} {digits[:12]}, which did not finish: {reason}")
    return folders


def load_finished(folder: RunFolder) -> dict[str, Any]:
    """Load the finished state of a run's method, or the state of a trunk: what its training has made so far.

    Raises:
        NeededRunError: if the checkpoint is missing or unreadable. The message says how to restore it.
    """
    try:
        return checkpoints.load(folder.checkpoint, folder.key).method
    except (FileNotFoundError, CheckpointError) as error:
        remedy = f"remove {folder.path} and run the study again, which trains that run anew"
        raise NeededRunError(f"it needs the state of a finished run: {error}; {remedy}") from error
